// Runs the steps of one conformance case, one after the other, while it handles one inbound
// message. The steps and the known names come from the app's config; what came back is logged, in
// pieces, and checked outside.

var setTimeout = require('timers').setTimeout;

function put_in(value, names) {
    if (typeof value === 'string') {
        var whole = /^\$\{([\w.]+)\}$/.exec(value);
        if (whole) return names[whole[1]];
        return value.replace(/\$\{([\w.]+)\}/g, function (_, name) { return names[name]; });
    }
    if (Array.isArray(value)) return value.map(function (item) { return put_in(item, names); });
    if (value === null || typeof value !== 'object') return value;
    var result = {};
    Object.keys(value).forEach(function (key) { result[key] = put_in(value[key], names); });
    return result;
}

function at(value, path) {
    return path.split('.').reduce(function (inner, key) {
        return inner === undefined ? inner : inner[key];
    }, value);
}

function get(key, then) {
    api.request('config.get', {key: key}, function (reply) { then(JSON.parse(reply.value)); });
}

function report(results, then) {
    // \u escapes: a piece must not end in the middle of a character.
    var text = JSON.stringify(results).replace(/[\u007f-\uffff]/g, function (c) {
        return '\\u' + ('0000' + c.charCodeAt(0).toString(16)).slice(-4);
    });
    var pieces = [];
    for (var i = 0; i < text.length; i += 8000) pieces.push(text.slice(i, i + 8000));
    function next(n) {
        if (n === pieces.length) return then();
        api.request('log.debug', {msg: 'RESULTS ' + pieces[n]}, function () { next(n + 1); });
    }
    next(0);
}

api.on_inbound_message = function (command) {
    get('case_steps', function (steps) {
        get('case_names', function (names) {
            names['inbound.message_id'] = command.msg.message_id;
            var later = command.msg.helper_metadata.case_names || {};
            Object.keys(later).forEach(function (name) { names[name] = later[name]; });
            var replies = [];
            function finish() {
                report({replies: replies, names: names}, function () { api.done(); });
            }
            function next(n) {
                if (n === steps.length) return api.request('log.debug', {msg: 'STEP end'}, finish);
                api.request('log.debug', {msg: 'STEP ' + n}, function () {
                    var step = steps[n];
                    if (step.sleep) {
                        return setTimeout(function () {
                            replies.push(null);
                            next(n + 1);
                        }, step.sleep * 1000);
                    }
                    api.request(step.cmd, put_in(step.fields, names), function (reply) {
                        replies.push(reply);
                        Object.keys(step.save || {}).forEach(function (name) {
                            names[name] = at(reply, step.save[name]);
                        });
                        next(n + 1);
                    });
                });
            }
            next(0);
        });
    });
};
