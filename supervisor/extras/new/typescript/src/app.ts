// An app without a toolkit, in TypeScript: the sandbox calls it with each message, and it asks for
// what it needs by api.request. docs/resources.md of jsbox has all commands.

function ask<C extends Command>(command: C, fields: RequestOf<C>): Promise<SuccessOf<C>> {
  return new Promise((resolve, reject) => {
    api.request(command, fields, (reply) => {
      if (reply.success) resolve(reply);
      else reject(new Error(`${command}: ${reply.reason}`));
    });
  });
}

async function answer(msg: InboundMessage): Promise<void> {
  if (msg.session_event === 'close') return; // the user has hung up
  if (msg.session_event === 'new') {
    const visits = await ask('kv.incr', { key: `visits.${msg.from_addr}` });
    const title = await ask('config.get', { key: 'title' });
    await reply(msg, `Welcome to ${title.value}, visit ${visits.value}.\nWhat is your name?`, true);
    return;
  }
  const name = msg.content ?? '';
  await ask('log.info', { msg: `a name of ${name.length} characters` });
  await reply(msg, `Thank you, ${name}.`, false);
}

function reply(msg: InboundMessage, content: string, goesOn: boolean) {
  return ask('outbound.reply_to', {
    content, in_reply_to: msg.message_id, continue_session: goesOn,
  });
}

api.on_inbound_message = (command) => {
  answer(command.msg)
    .catch((error: Error) => console.error(error))
    .then(() => api.done()); // exactly once, after everything else
};

api.on_inbound_event = () => api.done(); // delivery reports
