// Goes before every attack: finds the host realm by any route that the harness leaves open.
// A test may put `__test_host` = {process, require} there, as if an attack had already escaped from
// the vm: that tests the layer of the operating system alone.
var X = { route: 'none', process: null, done: false };
X.reach = function (command) {
  var src = 'return typeof process === "object" ? process : null';
  function ctor(o) {
    return function () {
      return o.constructor.constructor(src)();
    };
  }
  var routes = [
    [
      'granted',
      function () {
        return __test_host.process;
      }
    ],
    [
      'global',
      function () {
        return process;
      }
    ],
    ['api', ctor(api)],
    ['api.request', ctor(api.request)],
    ['command', ctor(command)],
    ['msg', ctor(command.msg)],
    [
      'this',
      function () {
        return globalThis.constructor.constructor(src)();
      }
    ],
    [
      'require',
      function () {
        return require.constructor(src)();
      }
    ],
    [
      'Buffer',
      function () {
        return Buffer.constructor(src)();
      }
    ],
    [
      'setTimeout',
      function () {
        return setTimeout.constructor(src)();
      }
    ],
    [
      'timer-object',
      function () {
        var t = setTimeout(function () {}, 0);
        return t.constructor.constructor(src)();
      }
    ],
    [
      'host-error',
      function () {
        try {
          api.request('log.info', null);
        } catch (e) {
          return e.constructor.constructor(src)();
        }
      }
    ],
    [
      'stack-overflow-error',
      function () {
        var r = null,
          tries = 0;
        function f() {
          try {
            f();
          } catch (e) {
            if (tries++ < 12) {
              try {
                api.log_info('');
              } catch (e2) {
                if (!r) {
                  var p = e2.constructor.constructor(src)();
                  if (p) r = p;
                }
              }
            }
            throw e;
          }
        }
        try {
          f();
        } catch (e) {
          if (!r) r = e.constructor.constructor(src)();
        }
        return r;
      }
    ],
    [
      'callsite',
      function () {
        var o = Error.prepareStackTrace,
          r = null;
        Error.prepareStackTrace = function (e, cs) {
          try {
            r = cs.constructor.constructor(src)();
          } catch (x) {}
          for (var i = 0; i < cs.length && !r; i++) {
            try {
              r = cs[i].constructor.constructor(src)();
            } catch (x) {}
            var fn = cs[i].getFunction && cs[i].getFunction();
            if (fn)
              try {
                r = r || fn.constructor(src)();
              } catch (x) {}
          }
          return '';
        };
        new Error('x').stack;
        Error.prepareStackTrace = o;
        return r;
      }
    ]
  ];
  for (var i = 0; i < routes.length; i++) {
    try {
      var p = routes[i][1]();
      if (p && p.versions && p.pid) {
        X.process = p;
        X.route = routes[i][0];
        return p;
      }
    } catch (e) {}
  }
  return null;
};
X.require = function (name) {
  var p = X.process;
  if (!p) throw new Error('no host route');
  if (typeof __test_host === 'object' && __test_host.require) return __test_host.require(name);
  if (p.getBuiltinModule) {
    var m = p.getBuiltinModule(name);
    if (m) return m;
  }
  return p.mainModule.require(name);
};
X.meta = function (command) {
  var h = command.msg && command.msg.helper_metadata;
  return (h && h.attack) || {};
};
// Reply with the verdict, once per message.
X.say = function (command, text) {
  if (X.done) return;
  X.done = true;
  api.request(
    'outbound.reply_to',
    {
      content: String(text).slice(0, 300),
      in_reply_to: command.msg.message_id,
      continue_session: false
    },
    function () {
      api.done();
    }
  );
};
X.attack = function (needsHost, fn) {
  api.on_inbound_message = function (command) {
    X.done = false;
    function breach(d) {
      X.say(command, 'BREACH [' + X.route + '] ' + d);
    }
    function safe(d) {
      X.say(
        command,
        'SAFE [' + X.route + '] ' + (d && d.message ? (d.code || d.name) + ': ' + d.message : d)
      );
    }
    try {
      X.reach(command);
      if (needsHost && !X.process) return safe('no host route');
      fn(command, breach, safe);
    } catch (e) {
      safe(e);
    }
  };
  api.on_inbound_event = function () {
    api.done();
  };
};
