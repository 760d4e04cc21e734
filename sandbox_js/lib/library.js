'use strict';
// The library realm: the bundled toolkits and the app's own node_modules, loaded once per process
// and kept between runs.

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');
const { createRequire, isBuiltin } = require('node:module');
const { setClock } = require('./clock');

const ROOT = path.dirname(__dirname);
const BUNDLED_FILE = path.join(ROOT, 'app.js');   // beside the bundled node_modules
const BEFORE = '(function (exports, require, module, __filename, __dirname) {', AFTER = '\n})';
const TIMERS = 1000;                       // live timers per process
// The modules of Node that an app may use: the same as in supervisor/config/node.py. All others are
// stand-ins that can be loaded but refuse to work.
const BUILTINS = new Set(['assert', 'buffer', 'crypto', 'events', 'path', 'querystring',
  'string_decoder', 'timers', 'url', 'util']);
// What packages, but not apps, may use besides: modules that only compute.
const FOR_PACKAGES = new Set(['stream', 'zlib', 'punycode', 'constants', 'stream/promises',
  'util/types', 'path/posix', 'assert/strict']);

const { setTimeout: later, clearTimeout: cancel, process: host } = globalThis;

// Runs INSIDE the library realm; the host's functions stay in its closure.
function bootstrap(find, startTimer, stopTimer, nextTick, print, version) {
  'use strict';
  const timers = Object.create(null);
  let lastTimer = 0;

  function start(fn, ms, again, args) {
    if (typeof fn !== 'function') throw new TypeError('a timer needs a function');
    const id = ++lastTimer;
    timers[id] = () => { if (!again) delete timers[id]; fn(...args); };
    if (startTimer(id, Number(ms) || 0, again) !== 0) {
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

  // Toolkits recognize Node by this object: q schedules with nextTick if it calls itself "process".
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
    const watched = new WeakSet();
    function watch(im) {
      const isMachine = im !== null && typeof im === 'object' && typeof im.on === 'function';
      if (!isMachine || watched.has(im)) return im;
      watched.add(im);
      const tell = (event) => {
        const where = im.state && im.state.name ? 'in state ' + im.state.name : 'outside any state';
        print('error', where + ': ' + (event.error && event.error.stack || event.error));
      };
      im.on('im:error', tell);
      // For errors while a state is created: the user gets the app's error state, and only the
      // message is logged.
      const { app } = im;
      if (app !== null && typeof app === 'object' && typeof app.on === 'function') {
        app.on('app:error', tell);
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
  };
}

const BOOTSTRAP = new vm.Script(`(${bootstrap})`, { filename: 'jsbox:library' });

/**
 * Make the library realm of a process.
 * @param `kept` is what codecache.js made of the bundled files, or null; `clock`: ms that its clock
 *   is ahead; `now()` returns the active run; `resume(run)` is called before a timer of it fires.
 * @returns {{load(name), preload(names), forgetKept(), pick(names), clearTimers(run),
 *   compiled(): object}}
 */
function createLibrary({
  modulesDir, console: print, kept = null, clock = 0, now = () => null, resume = () => {},
}) {
  const context = vm.createContext(vm.constants.DONT_CONTEXTIFY, {
    name: 'library', codeGeneration: { strings: true, wasm: false },
  });
  setClock(context, clock);
  const live = new Map();      // timer id -> {timer, run}
  const modules = new Map();   // file name -> {module, require}
  const scripts = new Map();   // file name -> {source, script}
  const resolved = new Map();  // [folder, name] as a key -> file name
  let inside = null;

  function startTimer(id, ms, again) {
    if (live.size >= TIMERS) return -1;
    const run = now();
    const fire = () => {
      if (again) live.set(id, { timer: later(fire, ms), run }); else live.delete(id);
      resume(run);
      inside.fire(id);
    };
    live.set(id, { timer: later(fire, Math.min(Math.max(ms, 1), 0x7fffffff)), run });
    return 0;
  }

  function stopTimer(id) {
    cancel(live.get(id)?.timer);
    live.delete(id);
  }

  function loadFile(file) {
    let entry = modules.get(file);
    if (entry !== undefined) return entry.module.exports;
    entry = inside.makeModule(file);
    modules.set(file, entry);   // before it runs: modules may require each other in circles
    try {
      const known = kept === null ? undefined : kept.files.get(path.relative(ROOT, file));
      const source = known?.source ?? fs.readFileSync(file, 'utf8').replace(/^#!.*/, '');
      const options = { filename: file, columnOffset: -BEFORE.length, cachedData: known?.data };
      const script = new vm.Script(BEFORE + source + AFTER, options);
      scripts.set(file, { source, script });
      inside.run(entry.module, entry.require, script.runInContext(context), path.dirname(file));
    } catch (error) {
      modules.delete(file);
      throw error;
    }
    return entry.module.exports;
  }

  function builtin(name) {
    if (name === 'timers') return { exports: () => inside.clocks };
    if (BUILTINS.has(name) || FOR_PACKAGES.has(name)) {
      const found = require(`node:${name}`);
      return { exports: () => found };
    }
    return { absent: name };
  }

  function resolve(from, name) {
    // A module is looked for beside the one that asks, in the app's own node_modules, and among the
    // bundled toolkits.
    const places = [[from, name], [BUNDLED_FILE, name]];
    const key = path.relative(ROOT, path.dirname(from)) + '\0' + name;
    const known = modulesDir || kept === null ? undefined : kept.resolved.get(key);
    if (known !== undefined) return path.join(ROOT, known);
    if (modulesDir && !name.startsWith('.')) {
      const own = [path.join(modulesDir, 'app.js'), name];
      places.splice(1, 0, own, [BUNDLED_FILE, path.join(modulesDir, name)]);
    }
    for (const [start, request] of places) {
      try {
        const file = createRequire(start).resolve(request);
        resolved.set(key, path.relative(ROOT, file));
        return file;
      } catch { /* the next place */ }
    }
    return null;
  }

  function find(from, name) {
    if (isBuiltin(name)) return builtin(name.replace(/^node:/, ''));
    const file = resolve(from, name);
    if (file === null) {
      const error = `Cannot find module '${name}', required by ${from}`;
      return { error, code: 'MODULE_NOT_FOUND' };
    }
    if (file.endsWith('.json')) return { json: fs.readFileSync(file, 'utf8') };
    if (file.endsWith('.node')) {
      const error = `${name} is native code, which a sandbox cannot load`;
      return { error, code: 'ERR_DLOPEN_DISABLED' };
    }
    if (file.endsWith('.mjs')) {
      const error = `${name} is an ES module; apps need the CommonJS build of it`;
      return { error, code: 'ERR_REQUIRE_ESM' };
    }
    return { exports: () => loadFile(file) };
  }

  const nextTick = (fn) => host.nextTick(fn);
  const make = BOOTSTRAP.runInContext(context);
  inside = make(find, startTimer, stopTimer, nextTick, print, host.version);
  for (const name of ['Buffer', 'TextEncoder', 'TextDecoder', 'URL', 'URLSearchParams']) {
    context[name] = globalThis[name];
  }

  const requirer = modulesDir ? path.join(modulesDir, 'app.js') : BUNDLED_FILE;
  const requireInside = inside.makeRequire(requirer);
  const loaded = new Map();

  function load(name) {
    if (!loaded.has(name)) {
      const found = requireInside(name);
      loaded.set(name, name === 'vumigo_v02' ? inside.withErrorStacks(found) : found);
    }
    return loaded.get(name);
  }

  return {
    load,
    /** Free what codecache.js made, three megabytes, which is not needed any more. */
    forgetKept() { kept = null; },
    /** What has been loaded so far, compiled, to be `kept` for other processes. */
    compiled() {
      const files = new Map();
      for (const [file, { source, script }] of scripts) {
        files.set(path.relative(ROOT, file), { source, data: script.createCachedData() });
      }
      return { files, resolved };
    },
    pick: (names) => Object.fromEntries(names.map((name) => [name, context[name]])),
    /** Clear the timers that were set while `run` was active. */
    clearTimers(run) {
      for (const [id, entry] of live) {
        if (entry.run !== run) continue;
        cancel(entry.timer);
        inside.forget(id);
        live.delete(id);
      }
    },
    /** Load what the first run would have to wait for; what fails to load fails again in a run. */
    preload(names) {
      for (const name of names) {
        try { load(name); } catch { /* the run that needs it will say so */ }
      }
    },
  };
}

module.exports = { createLibrary };
