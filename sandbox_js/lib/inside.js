'use strict';
// The part of the library realm that is inside it: the globals that Node would give its modules,
// and what a module gets when it is loaded.

// Runs INSIDE the library realm; the host's functions stay in its closure.
function bootstrap(find, startTimer, stopTimer, nextTick, print, version) {
  'use strict';
  const timers = Object.create(null);
  const FunctionType = Function;
  const call = Function.prototype.call.bind(Function.prototype.call);
  const { exec } = RegExp.prototype, EMPTY = /^/;
  const SHOWN = 60;   // characters of a message that are shown with an error
  let lastTimer = 0;

  function start(fn, ms, again, args) {
    if (typeof fn !== 'function') throw new TypeError('a timer needs a function');
    const id = ++lastTimer;
    timers[id] = () => { if (!again) delete timers[id]; fn(...args); };
    if (startTimer(id, Number(ms) || 0, again, fn instanceof FunctionType) !== 0) {
      delete timers[id];
      throw new Error('too many timers');
    }
    return id;
  }
  function stop(id) { id = Number(id) || 0; delete timers[id]; stopTimer(id); }

  const clocks = {
    setTimeout: (fn, ms, ...args) => start(fn, ms, false, args),
    setInterval: (fn, ms, ...args) => start(fn, ms, true, args),
    setImmediate: (fn, ...args) => start(fn, 0, false, args),
    clearTimeout: stop, clearInterval: stop, clearImmediate: stop,
  };

  const output = (fd, level) => ({
    fd, isTTY: false, write(text) { print(level, String(text)); return true; },
  });

  // Toolkits recognise Node by this object: q schedules with nextTick if it calls itself "process".
  const process = {
    nextTick: (fn, ...args) => { nextTick(() => fn(...args)); },
    env: {}, argv: [], execArgv: [], pid: 1, platform: 'linux', arch: 'x64',
    version, versions: { node: version.slice(1) }, title: 'node', release: { name: 'node' },
    features: {}, config: { variables: {} }, cwd: () => '/', uptime: () => 0,
    hrtime: () => { const now = Date.now(); return [Math.floor(now / 1000), (now % 1000) * 1e6]; },
    stdin: { fd: 0, isTTY: false }, stdout: output(1, 'info'), stderr: output(2, 'warning'),
    emitWarning() {}, on() { return process; }, once() { return process; },
    removeListener() { return process; }, emit() { return false; },
    [Symbol.toStringTag]: 'process',
  };

  function absent(name) {
    // A module of Node that apps may not use: it can be loaded and inspected, and refuses when
    // used.
    const refuse = () => { throw new Error(name + ' is not available in the sandbox'); };
    return new Proxy(function () {}, {
      get: (target, key) => {
        if (key === Symbol.toPrimitive) return () => '[' + name + ']';
        if (key === '__esModule' || key === 'then') return undefined;
        return key in target ? target[key] : absent(name + '.' + String(key));
      },
      apply: refuse, construct: refuse,
    });
  }

  // Many packages look at these while they are loaded.
  const small = {
    __proto__: null,
    tty: {
      isatty: () => false,
      ReadStream: absent('tty.ReadStream'),
      WriteStream: absent('tty.WriteStream'),
    },
    os: {
      EOL: '\n', platform: () => 'linux', type: () => 'Linux', arch: () => 'x64', release: () => '',
      hostname: () => 'sandbox', homedir: () => '/', tmpdir: () => '/tmp', cpus: () => [],
      endianness: () => 'LE', uptime: () => 0, totalmem: () => 0, freemem: () => 0,
      loadavg: () => [0, 0, 0], networkInterfaces: () => ({}),
      userInfo: () => ({ username: 'app', uid: -1, gid: -1, shell: null, homedir: '/' }),
      constants: { signals: {}, errno: {} },
    },
  };

  function makeRequire(from) {
    function require(name) {
      const found = find(from, String(name));
      if (found.error) throw Object.assign(new Error(found.error), { code: found.code });
      if (found.absent) return small[found.absent] || absent(found.absent);
      if (found.json !== undefined) return JSON.parse(found.json);
      return found.exports();
    }
    return require;
  }

  function makeModule(filename) {
    const require = makeRequire(filename);
    const module = {
      id: filename, filename, exports: {}, loaded: false, children: [], paths: [], require,
    };
    return { module, require };
  }

  function run(module, require, code, dirname) {
    code.call(module.exports, module.exports, require, module, module.filename, dirname);
    module.loaded = true;
  }

  const printers = {};
  const levels = {
    log: 'info', info: 'info', debug: 'debug', trace: 'debug', warn: 'warning', error: 'error',
  };
  for (const name of Object.keys(levels)) {
    printers[name] = (...values) => print(levels[name], values.map(String).join(' '));
  }

  // When a state throws, vumigo_v02 logs only the message and says done. Its interaction machine,
  // and its app, emit the error itself first: from that the developer learns which line of which
  // state.
  function withErrorStacks(toolkit) {
    const { stringify } = JSON;
    const short = (content) => (typeof content === 'string' && content.length > SHOWN
      ? content.slice(0, SHOWN) + '...' : content);
    const watched = new WeakSet();
    function watch(im) {
      const isMachine = im !== null && typeof im === 'object' && typeof im.on === 'function';
      if (!isMachine || watched.has(im)) return im;
      watched.add(im);
      const { app } = im, states = app && app.states;
      let last = '';   // the state that was last made, perhaps not yet entered
      const tell = (event) => {
        const state = last || (im.state && im.state.name);
        const where = state ? 'in state ' + state : 'outside any state';
        const at = im.msg ? ', message ' + stringify(short(im.msg.content)) : '';
        print('error', where + at + ': ' + (event.error && event.error.stack || event.error));
      };
      im.on('im:error', tell);
      // For errors while a state is created: the user gets the app's error state, and only the
      // message is logged.
      if (app !== null && typeof app === 'object' && typeof app.on === 'function') {
        app.on('app:error', tell);
      }
      if (states !== null && typeof states === 'object' && typeof states.create === 'function') {
        const { create } = states;
        // The machine knows of a state only once it is made.
        states.create = function (name) {
          if (name !== '__error__' && states.creators && name in states.creators) last = name;
          return create.apply(this, arguments);
        };
      }
      return im;
    }
    // Apps make a machine with this class, with a class that extends it, or with interact().
    const watching = new Proxy(toolkit.InteractionMachine, {
      construct: (target, args, self) => watch(Reflect.construct(target, args, self)),
      apply(target, self, args) {
        const result = Reflect.apply(target, self, args);
        watch(self);
        return result;
      },
    });
    toolkit.InteractionMachine = toolkit.interaction_machine.InteractionMachine = watching;
    const interact = toolkit.interact;
    toolkit.interact = function (...args) { return watch(interact.apply(this, args)); };
    return toolkit;
  }

  Object.assign(globalThis, clocks, {
    global: globalThis,
    process,
    console: printers,
    queueMicrotask: (fn) => { Promise.resolve().then(fn); },
  });
  return {
    makeModule, makeRequire, run, clocks, withErrorStacks,
    fire: (id) => { const timer = timers[id]; if (timer) timer(); },
    forget: (id) => { delete timers[id]; },
    // RegExp.input and the like have the text that was last searched.
    forgetMatch: () => { call(exec, EMPTY, ''); },
  };
}

module.exports = { bootstrap };
