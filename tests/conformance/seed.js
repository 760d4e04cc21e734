// The account's other conversation: takes messages silently; a push sends what its config says.

api.on_inbound_message = function (command) {
    if (!command.msg.inbound_push_trigger) return api.done();
    api.request('config.get', {key: 'seed'}, function (reply) {
        var left = [];
        JSON.parse(reply.value).forEach(function (row) {
            for (var n = 0; n < (row.count || 1); n++) left.push(row.to_addr);
        });
        function next() {
            if (!left.length) return api.done();
            api.request('outbound.send_to', {to_addr: left.pop(), content: 'seed'}, next);
        }
        next();
    });
};
