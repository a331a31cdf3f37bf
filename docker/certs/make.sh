#!/bin/sh
# Certificates for the profile `secure`, in the folder that is named: an authority, the server's, and one for
# each user. If there is a folder of a user's name, the user's files go there, with the authority's certificate:
# in the rig it is a volume that no other container mounts. Files that are there already are kept. The authority's
# key is not: nobody can add a user later.
set -eu
umask 077
cd "$1"
[ ! -e ready ] || exit 0

place() { # name
    if [ -d "$1" ]; then echo "$1/$1"; else echo "$1"; fi
}

key() { # path without ending
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1.key"
}

sign() { # name, extensions
    at=$(place "$1")
    key "$at"
    openssl req -new -key "$at.key" -subj "/CN=$1" -out "$at.csr"
    printf '%s\n' "$2" > "$at.ext"
    openssl x509 -req -in "$at.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" \
        -days 825 -extfile "$at.ext" -out "$at.pem"
    rm "$at.csr" "$at.ext"
    if [ -d "$1" ]; then cp ca.pem "$1/ca.pem"; fi
}

key ca
openssl req -x509 -key ca.key -subj "/CN=natsdisc rig" -addext "keyUsage=critical,keyCertSign" -days 825 -out ca.pem
sign server "subjectAltName=DNS:secure,DNS:localhost,IP:127.0.0.1
extendedKeyUsage=serverAuth"
for user in reader shop-reader shop-registrar cart-registrar operator lab acme globex; do
    sign "$user" "extendedKeyUsage=clientAuth"
done
rm ca.key
touch ready
