// A client of the registry for nats.js, written from docs/protocol.md: it registers with a lease, and watches.
// node client.js nats://127.0.0.1:4222 shop cart js 2
const { randomBytes } = require("node:crypto");
const { connect, headers, nanos } = require("@nats-io/transport-node");

const BUCKET = "v1_instances";
const STREAM = `KV_${BUCKET}`;
const VALUES = `$KV.${BUCKET}.`;
const LEASES = `$NATSDISC.LEASE.${BUCKET}.`;
const WRONG_FENCE = 10071;
const IN_FLIGHT = 10164;
const TOMBSTONE_TTL = "300s";
const text = new TextDecoder();

// "Buckets, keys and values": a name is one token.
function token(name) {
  return Array.from(Buffer.from(name, "utf8"), (byte) =>
    /[-_/a-zA-Z0-9]/.test(String.fromCharCode(byte))
      ? String.fromCharCode(byte)
      : `=${byte.toString(16).toUpperCase().padStart(2, "0")}`,
  ).join("");
}

class JetStream {
  constructor(nc) {
    this.nc = nc;
  }

  async api(name, body) {
    const answer = await this.nc.request(`$JS.API.${name}`, body ? JSON.stringify(body) : "", { timeout: 5000 });
    return answer.json();
  }

  // The acknowledgement: a sequence, or the code of an error.
  async publish(subject, value, fields) {
    const written = headers();
    for (const [name, field] of Object.entries(fields)) written.set(name, field);
    const answer = (await this.nc.request(subject, value, { headers: written, timeout: 5000 })).json();
    return answer.error ? { code: answer.error.err_code } : { sequence: answer.seq };
  }

  async makeBucket() {
    const info = await this.api(`STREAM.INFO.${STREAM}`);
    if (!info.error) return;
    const made = await this.api(`STREAM.CREATE.${STREAM}`, {
      name: STREAM,
      subjects: [`${VALUES}>`, `${LEASES}>`],
      max_msgs_per_subject: 1,
      discard: "old",
      allow_direct: true,
      allow_rollup_hdrs: true,
      deny_delete: true,
      allow_msg_ttl: true,
      allow_msg_schedules: true,
      max_consumers: 100000,
      storage: "memory",
      num_replicas: 1,
    });
    if (made.error) throw new Error(made.error.description);
  }

  // "The time is the server's": an offset to a monotonic clock, in milliseconds.
  async readClock() {
    const begin = performance.now();
    const info = await this.api(`STREAM.INFO.${STREAM}`);
    this.offset = Date.parse(info.ts) - (begin + performance.now()) / 2;
  }

  after(seconds) {
    return new Date(performance.now() + this.offset + seconds * 1000).toISOString();
  }

  async last(key) {
    const answer = await this.api(`STREAM.MSG.GET.${STREAM}`, { last_by_subj: VALUES + key });
    if (answer.error) return null;
    const { seq, hdrs, data } = answer.message;
    const block = hdrs ? Buffer.from(hdrs, "base64").toString() : "";
    const removed = /KV-Operation: (DEL|PURGE)|Nats-Marker-Reason:/.test(block);
    return { seq, block, removed, value: Buffer.from(data || "", "base64").toString() };
  }
}

class Registration {
  constructor(js, key, value, ttl) {
    Object.assign(this, { js, key, value, ttl, owner: randomBytes(8).toString("hex"), revision: 0 });
  }

  lease(fence) {
    return this.js.publish(LEASES + this.key, "", {
      "Nats-Schedule": `@at ${this.js.after(this.ttl)}`,
      "Nats-Schedule-Target": VALUES + this.key,
      "Nats-Schedule-TTL": TOMBSTONE_TTL,
      "KV-Operation": "DEL",
      "Natsdisc-Owner": this.owner,
      "Nats-Expected-Last-Subject-Sequence": String(fence),
      "Nats-Expected-Last-Subject-Sequence-Subject": VALUES + this.key,
    });
  }

  async register() {
    for (let fence = 0; ; ) {
      const write = () =>
        this.js.publish(VALUES + this.key, this.value, {
          "Nats-Expected-Last-Subject-Sequence": String(fence),
          "Natsdisc-Leased": String(this.ttl),
        });
      const pending = this.lease(fence); // the lease goes first
      let written = await write();
      const leased = await pending;
      if (written.code === IN_FLIGHT) written = await write();
      if (written.sequence) {
        this.revision = written.sequence;
        if (leased.code) await this.renew();
        return;
      }
      if (written.code !== WRONG_FENCE) throw new Error(`the server refused the value: ${written.code}`);
      const last = await this.js.last(this.key);
      if (last && !last.removed) {
        if (last.value !== this.value) throw new Error(`${this.key} is registered with another value`);
        this.revision = last.seq;
        await this.renew();
        return;
      }
      fence = last ? last.seq : 0;
    }
  }

  async renew() {
    const answer = await this.lease(this.revision);
    if (answer.code !== WRONG_FENCE) return;
    const last = await this.js.last(this.key);
    if (!last || last.removed) await this.register();
    else if (last.block.includes("Natsdisc-Updated:")) {
      this.value = last.value;
      this.revision = last.seq;
      await this.renew();
    } else throw new Error(`${this.key} is lost to another owner`);
  }

  async unregister() {
    for (;;) {
      const answer = await this.js.publish(VALUES + this.key, "", {
        "KV-Operation": "DEL",
        "Nats-TTL": TOMBSTONE_TTL,
        "Nats-Expected-Last-Subject-Sequence": String(this.revision),
        "Nats-Scheduler": LEASES + this.key,
        "Nats-Schedule-Next": "purge",
        "Natsdisc-Reason": "unregistered",
      });
      if (answer.code !== WRONG_FENCE) return;
      const last = await this.js.last(this.key);
      if (!last || last.removed || !last.block.includes("Natsdisc-Updated:")) return;
      this.revision = last.seq;
    }
  }
}

// "Reading", without the repairs of rules 6 to 8: this client is too small for them.
async function watch(js, prefix) {
  const inbox = `_INBOX.${randomBytes(8).toString("hex")}`;
  const known = new Map();
  js.nc.subscribe(inbox, {
    callback(_error, message) {
      if (message.headers?.code === 100) {
        if (message.reply) message.respond(); // flow control
        return;
      }
      const key = message.subject.slice(VALUES.length);
      const field = (name) => message.headers?.get(name) || "";
      const scheduler = field("Nats-Scheduler");
      if (scheduler && (scheduler !== LEASES + key || field("KV-Operation") !== "DEL")) return;
      if (["DEL", "PURGE"].includes(field("KV-Operation")) || field("Nats-Marker-Reason")) {
        const expired = scheduler && field("Natsdisc-Reason") !== "unregistered";
        if (known.delete(key)) console.log("removed", key, expired ? "expired" : "unregistered");
        return;
      }
      const value = JSON.parse(text.decode(message.data));
      const place = [value.namespace, value.component, value.endpoint].map(token).join(".");
      const id = key.slice(key.lastIndexOf(".") + 1);
      // JavaScript loses digits of large numbers: the id is taken from the text.
      const [, digits] = /"instance_id":(\d+)/.exec(text.decode(message.data)) || [];
      if (`${place}.${id}` !== key || BigInt(digits).toString(16) !== id) return;
      known.set(key, value);
      console.log("added", key, value.status || "serving");
    },
  });
  const name = randomBytes(8).toString("hex");
  const filter = `${VALUES}${prefix}.>`;
  const made = await js.api(`CONSUMER.CREATE.${STREAM}.${name}.${filter}`, {
    stream_name: STREAM,
    action: "create",
    config: {
      name,
      deliver_subject: inbox,
      filter_subject: filter,
      deliver_policy: "last_per_subject",
      ack_policy: "none",
      max_deliver: 1,
      mem_storage: true,
      num_replicas: 1,
      flow_control: true,
      idle_heartbeat: nanos(1500),
      inactive_threshold: nanos(30000),
    },
  });
  if (made.error) throw new Error(made.error.description);
}

async function main(servers, namespace, component, endpoint, ttl) {
  const nc = await connect({ servers });
  const js = new JetStream(nc);
  await js.makeBucket();
  await js.readClock();
  await watch(js, token(namespace));
  const id = randomBytes(6).readUIntBE(0, 6);
  const value = JSON.stringify({
    type: "Endpoint",
    component,
    endpoint,
    namespace,
    instance_id: id,
    transport: { nats_tcp: `${namespace}.${component}.${endpoint}` },
  });
  const key = [namespace, component, endpoint].map(token).join(".") + `.${id.toString(16)}`;
  const registration = new Registration(js, key, value, Number(ttl));
  await registration.register();
  console.log("registered", key);
  const renewals = setInterval(() => registration.renew(), (Number(ttl) * 1000) / 3);
  const clock = setInterval(() => js.readClock(), 60000);
  process.on("SIGTERM", async () => {
    clearInterval(renewals);
    clearInterval(clock);
    await registration.unregister();
    await nc.close();
  });
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
