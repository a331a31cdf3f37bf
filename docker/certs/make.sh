#!/bin/sh
# Certificates for the profile `secure`, in the folder that is named: an authority, the server's, and one for
# each user. What is there already is kept. The authority's key is not: nobody can add a user later.
set -eu
umask 077
cd "$1"
[ ! -e ready ] || exit 0

key() { # name
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1.key"
}

sign() { # name, extensions
    key "$1"
    openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
    printf '%s\n' "$2" > "$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" \
        -days 825 -extfile "$1.ext" -out "$1.pem"
    rm "$1.csr" "$1.ext"
}

key ca
openssl req -x509 -key ca.key -subj "/CN=natsdisc rig" -addext "keyUsage=critical,keyCertSign" -days 825 -out ca.pem
sign server "subjectAltName=DNS:secure,DNS:localhost,IP:127.0.0.1
extendedKeyUsage=serverAuth"
for user in reader shop-reader shop-registrar cart-registrar operator lab; do
    sign "$user" "extendedKeyUsage=clientAuth"
done
rm ca.key
touch ready
