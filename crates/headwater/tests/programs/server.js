// A Node server: tells what it was sent, sends as much as it is asked for, and talks WebSocket (RFC 6455) without a library.
// usage: node server.js PORT

const crypto = require('node:crypto');
const http = require('node:http');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const block = Buffer.alloc(65536, 'x');

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (url.pathname === '/large') return send(response, Number(url.search.slice(1)));
  if (url.pathname === '/slow') return drip(response, 5);
  const hash = crypto.createHash('sha256');
  let length = 0;
  request.on('data', (piece) => {
    hash.update(piece);
    length += piece.length;
  });
  request.on('end', () => {
    const line = [request.method, request.url, request.headers['transfer-encoding'] || '-', length, hash.digest('hex')];
    response.end(line.join(' ') + '\n');
  });
});

// Chunked: there is no Content-Length.
function send(response, left) {
  while (left > 0) {
    const piece = block.subarray(0, left);
    left -= piece.length;
    if (!response.write(piece)) return response.once('drain', () => send(response, left));
  }
  response.end();
}

function drip(response, left) {
  if (left === 0) return response.end('end\n');
  response.write(`part ${left}\n`);
  setTimeout(() => drip(response, left - 1), 20);
}

server.on('upgrade', (request, socket) => {
  const accept = crypto.createHash('sha1').update(request.headers['sec-websocket-key'] + GUID).digest('base64');
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  let input = Buffer.alloc(0);
  socket.on('error', () => {});
  socket.on('data', (data) => {
    input = Buffer.concat([input, data]);
    // Short masked text frames only, which is all that the test sends.
    while (input.length >= 6 && input.length >= 6 + (input[1] & 127)) {
      const length = input[1] & 127;
      const text = Buffer.from(input.subarray(6, 6 + length).map((byte, at) => byte ^ input[2 + (at % 4)]));
      const opcode = input[0] & 15;
      input = input.subarray(6 + length);
      socket.write(Buffer.concat([Buffer.from([0x80 | opcode, length]), text]));
      if (opcode === 8) return socket.end();
    }
  });
});

// The connections of the test end with it.
server.keepAliveTimeout = 60000;
server.listen(Number(process.argv[2]), '127.0.0.1');
