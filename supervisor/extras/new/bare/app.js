// An app without a toolkit: the sandbox calls it with each message, and it asks for what it needs
// by api.request. docs/resources.md of jsbox has all commands.

function ask(command, fields) {
    return new Promise(function (resolve, reject) {
        api.request(command, fields, function (reply) {
            if (reply.success) resolve(reply);
            else reject(new Error(command + ': ' + reply.reason));
        });
    });
}

async function answer(msg) {
    if (msg.session_event === 'close') return;               // the user has hung up
    if (msg.session_event === 'new') {
        var visits = await ask('kv.incr', {key: 'visits.' + msg.from_addr});
        await reply(msg, 'Welcome to ' + await title() + ', visit ' + visits.value +
            '.\nWhat is your name?', true);
        return;
    }
    await ask('log.info', {msg: 'a name of ' + msg.content.length + ' characters'});
    await reply(msg, 'Thank you, ' + msg.content + '.', false);
}

function reply(msg, content, goesOn) {
    return ask('outbound.reply_to',
        {content: content, in_reply_to: msg.message_id, continue_session: goesOn});
}

async function title() {
    return (await ask('config.get', {key: 'title'})).value;
}

api.on_inbound_message = function (command) {
    answer(command.msg)
        .catch(function (error) { console.error(error); })
        .then(function () { api.done(); });                  // exactly once, after everything else
};

api.on_inbound_event = function () { api.done(); };          // delivery reports
