// What the sandbox gives an app.

interface Message {
  message_id: string;
  from_addr: string;
  to_addr: string;
  content: string | null;
  session_event: 'new' | 'resume' | 'close' | null;
  [field: string]: unknown;
}

interface Reply {
  success: boolean;
  reason?: string;
  [field: string]: any;
}

declare const api: {
  request(command: string, fields: object, callback: (reply: Reply) => void): void;
  done(): void;
  on_inbound_message: (command: { msg: Message }) => void;
  on_inbound_event: (command: { msg: Record<string, unknown> }) => void;
};
