// Any NATS client can read the registry, here nats.js: npm install @nats-io/kv @nats-io/transport-node
// node list.js nats://127.0.0.1:4222
const { Kvm } = require("@nats-io/kv");
const { connect } = require("@nats-io/transport-node");

async function main(servers) {
  const nc = await connect({ servers });
  const bucket = await new Kvm(nc).open("v1_instances");
  for await (const key of await bucket.keys("shop.>")) {
    const entry = await bucket.get(key);
    if (entry) console.log(key, JSON.stringify(entry.json().transport));
  }
  await nc.close();
}

main(process.argv[2]);
