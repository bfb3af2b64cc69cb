# Makes the certificates of the tests in the present directory. Run by `certificates.rs`.
set -eu
cat > ca.cnf <<'EOF'
[ca]
default_ca = d
[d]
dir = .
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = .
default_md = sha256
default_days = 3650
default_crl_days = 3650
policy = any
unique_subject = no
copy_extensions = none
crl_extensions = crl
[any]
commonName = supplied
[crl]
authorityKeyIdentifier = keyid
[req]
distinguished_name = dn
prompt = no
[dn]
CN = unnamed
[root]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
[inter]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[limited]
basicConstraints = critical, CA:TRUE
nameConstraints = critical, permitted;DNS:example.test
[leaf]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, DNS:example.test, DNS:*.wild.test
[address]
subjectAltName = IP:127.0.0.1
[plain]
basicConstraints = CA:FALSE
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
subjectAltName = DNS:example.test
EOF
: > index.txt
echo 1000 > serial
echo 1000 > crlnumber
key() { # name algorithm options...
    name=$1; shift
    openssl genpkey -out "$name.key" -algorithm "$@"
}
root() { # name extensions
    openssl req -x509 -new -config ca.cnf -extensions "$2" -key "$1.key" -subj "/CN=$1" -days 3650 -out "$1.pem"
}
leaf() { # name issuer extensions common-name dates...
    name=$1; issuer=$2; extensions=$3; cn=$4; shift 4
    openssl req -new -config ca.cnf -key "$name.key" -subj "/CN=$cn" -out "$name.csr"
    openssl ca -batch -notext -config ca.cnf -cert "$issuer.pem" -keyfile "$issuer.key" -extensions "$extensions" -in "$name.csr" -out "$name.pem" "$@"
}
for name in ca otherca inter inter2 limited ec cnonly expired notyet self underself selfother other revoked viainter deep vialimited client address clientonly; do
    key "$name" EC -pkeyopt ec_paramgen_curve:P-256
done
key server RSA -pkeyopt rsa_keygen_bits:2048
key rsa4096 RSA -pkeyopt rsa_keygen_bits:4096
key ed25519 ED25519
root ca root
root otherca root
root self leaf
root selfother leaf
openssl req -x509 -new -key self.key -subj /CN=example.test -addext "subjectAltName=DNS:example.test" -days 3650 -out selfca.pem
openssl req -x509 -new -config ca.cnf -extensions leaf -key self.key -subj /CN=x -days 3650 -out /dev/null
leaf inter ca inter inter
leaf inter2 inter inter inter2
leaf limited ca limited limited
for name in server rsa4096 ec ed25519; do leaf $name ca leaf $name; done
leaf address ca address address
leaf cnonly ca plain example.test
leaf vialimited limited plain other.test
leaf expired ca leaf expired -startdate 20200101000000Z -enddate 20210101000000Z
leaf notyet ca leaf notyet -startdate 20900101000000Z -enddate 20910101000000Z
leaf other otherca leaf other
leaf revoked ca leaf revoked
leaf underself self leaf underself
leaf viainter inter leaf viainter
leaf deep inter2 leaf deep
leaf client ca client "the client"
leaf clientonly ca client clientonly
openssl req -new -config ca.cnf -key ec.key -subj /CN=example.test -out v1.csr
openssl x509 -req -in v1.csr -CA ca.pem -CAkey ca.key -set_serial 7777 -days 3650 -out v1.pem
cp ec.key v1.key
cp self.key selfca.key
cat viainter.pem inter.pem > viainter-chain.pem; cp viainter.key viainter-chain.key
cat deep.pem inter2.pem inter.pem > deep-chain.pem; cp deep.key deep-chain.key
cat vialimited.pem limited.pem > vialimited-chain.pem; cp vialimited.key vialimited-chain.key
cat underself.pem self.pem > underself-chain.pem; cp underself.key underself-chain.key
cat server.pem ca.pem > withroot.pem; cp server.key withroot.key
cat inter.pem ca.pem > both.pem
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -out empty.crl
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -revoke revoked.pem
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -out ca.crl
openssl ca -config ca.cnf -cert ca.pem -keyfile ca.key -gencrl -crl_lastupdate 20200101000000Z -crl_nextupdate 20210101000000Z -out old.crl
openssl ca -config ca.cnf -cert otherca.pem -keyfile otherca.key -gencrl -out otherca.crl
printf 'secret\n' > passwords
printf 'wrong\n\nsecret\n' > more-passwords
printf 'wrong\n' > wrong-passwords
openssl pkcs8 -topk8 -in client.key -v2 aes-256-cbc -passout pass:secret -out client-pkcs8.key
openssl pkcs8 -topk8 -in client.key -v2 des3 -passout pass:secret -out client-des3.key
openssl ec -in client.key -aes256 -passout pass:secret -out client-old.key
openssl rsa -in server.key -traditional -des3 -passout pass:secret -out server-old.key
openssl rsa -in server.key -traditional -out server-pkcs1.key
