// A client of the gateway that takes nothing but replies to what it sends.

const WINDOW = 16;  // messages that it takes before it acknowledges

export class Gateway {
  constructor({ url, channel, token, heard, closed }) {
    this.address = new URL(url);
    if (['0.0.0.0', '[::]'].includes(this.address.hostname)) {
      this.address.hostname = location.hostname;
    }
    this.hello = { type: 'hello', channel, window: WINDOW, outcomes: true, only_own: true };
    if (token) this.hello.token = token;
    this.heard = heard;
    this.closed = closed;
  }

  // Resolves when messages may be sent. Raises an Error that says why they may not.
  open() {
    return new Promise((resolve, reject) => {
      const socket = this.socket = new WebSocket(this.address, ['jsbox.v1']);
      socket.onopen = () => socket.send(JSON.stringify(this.hello));
      socket.onerror = () => reject(
        new Error(`the gateway at ${this.address} cannot be reached from this page`));
      socket.onclose = () => { reject(new Error('the gateway closed')); this.closed(); };
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === 'welcome') resolve();
        else if (frame.type === 'error') reject(new Error(`${frame.code}: ${frame.detail}`));
        else if (frame.type === 'outbound') {
          socket.send(JSON.stringify({ type: 'ack', delivery: frame.delivery }));
        }
        this.heard(frame);
      };
    });
  }

  get isOpen() { return this.socket?.readyState === WebSocket.OPEN; }

  say(msg) {
    const id = crypto.randomUUID?.().replaceAll('-', '') ?? random();
    this.socket.send(JSON.stringify({ type: 'inbound', id, msg: { ...msg, message_id: id } }));
    return id;
  }

  close() { this.socket?.close(); }
}

// A page that came over plain HTTP from another host has no randomUUID.
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)),
  (byte) => byte.toString(16).padStart(2, '0')).join('');
