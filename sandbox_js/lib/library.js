'use strict';
// The library realm: the bundled toolkits and the app's own node_modules, loaded once a process and kept between runs.

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');
const { createRequire, isBuiltin } = require('node:module');
const { setClock } = require('./clock');

const ROOT = path.dirname(__dirname);
const BUNDLED_FILE = path.join(ROOT, 'app.js');   // beside the bundled node_modules
const BEFORE = '(function (exports, require, module, __filename, __dirname) {', AFTER = '\n})';
const TIMERS = 1000;                       // live timers a process
// What of Node itself an app may be given (design.md, section 3). Everything else is a stand-in that loads and then refuses.
const BUILTINS = new Set(['assert', 'buffer', 'crypto', 'events', 'path', 'querystring', 'string_decoder', 'timers', 'url', 'util']);
// What packages, not apps, find besides: modules that only compute.
const FOR_PACKAGES = new Set(['stream', 'zlib', 'punycode', 'constants', 'stream/promises', 'util/types', 'path/posix', 'assert/strict']);

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
    if (startTimer(id, Number(ms) || 0, again) !== 0) { delete timers[id]; throw new Error('too many timers'); }
    return id;
  }
  function stop(id) { id = Number(id) || 0; delete timers[id]; stopTimer(id); }

  const clocks = {
    setTimeout: (fn, ms, ...args) => start(fn, ms, false, args),
    setInterval: (fn, ms, ...args) => start(fn, ms, true, args),
    setImmediate: (fn, ...args) => start(fn, 0, false, args),
    clearTimeout: stop, clearInterval: stop, clearImmediate: stop,
  };

  const output = (fd, level) => ({ fd, isTTY: false, write(text) { print(level, String(text)); return true; } });

  // Toolkits look for Node by this object: q schedules with nextTick when it finds one that calls itself "process".
  const process = {
    nextTick: (fn, ...args) => { nextTick(() => fn(...args)); },
    env: {}, argv: [], execArgv: [], pid: 1, platform: 'linux', arch: 'x64', version, versions: { node: version.slice(1) },
    cwd: () => '/', hrtime: () => { const now = Date.now(); return [Math.floor(now / 1000), (now % 1000) * 1e6]; },
    title: 'node', release: { name: 'node' }, features: {}, config: { variables: {} }, uptime: () => 0,
    stdin: { fd: 0, isTTY: false }, stdout: output(1, 'info'), stderr: output(2, 'warning'),
    emitWarning() {}, on() { return process; }, once() { return process; }, removeListener() { return process; }, emit() { return false; },
    [Symbol.toStringTag]: 'process',
  };

  function absent(name) {
    // A module of Node that apps may not have: it can be loaded and looked at, and refuses when used.
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

  // Asked for at load time by many packages, to find out where they are.
  const small = {
    __proto__: null,
    tty: { isatty: () => false, ReadStream: absent('tty.ReadStream'), WriteStream: absent('tty.WriteStream') },
    os: {
      EOL: '\n', platform: () => 'linux', type: () => 'Linux', arch: () => 'x64', release: () => '', hostname: () => 'sandbox', homedir: () => '/',
      tmpdir: () => '/tmp', cpus: () => [], endianness: () => 'LE', uptime: () => 0, totalmem: () => 0, freemem: () => 0, loadavg: () => [0, 0, 0],
      networkInterfaces: () => ({}), userInfo: () => ({ username: 'app', uid: -1, gid: -1, shell: null, homedir: '/' }), constants: { signals: {}, errno: {} },
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
    const module = { id: filename, filename, exports: {}, loaded: false, children: [], paths: [], require };
    return { module, require };
  }

  function run(module, require, code, dirname) {
    code.call(module.exports, module.exports, require, module, module.filename, dirname);
    module.loaded = true;
  }

  const printers = {};
  const levels = { log: 'info', info: 'info', debug: 'debug', trace: 'debug', warn: 'warning', error: 'error' };
  for (const name of Object.keys(levels)) printers[name] = (...values) => print(levels[name], values.map(String).join(' '));

  // When something throws inside a state, vumigo_v02 logs only the message and says done. Its interaction machine, and its app, emit the
  // error itself first: that is where the developer can learn which line of which state it was.
  function withErrorStacks(toolkit) {
    const watched = new WeakSet();
    function watch(im) {
      if (im === null || typeof im !== 'object' || typeof im.on !== 'function' || watched.has(im)) return im;
      watched.add(im);
      const tell = (event) => {
        const where = im.state && im.state.name ? 'in state ' + im.state.name : 'outside any state';
        print('error', where + ': ' + (event.error && event.error.stack || event.error));
      };
      im.on('im:error', tell);
      // While a state is created: the user gets the app's error state, and the log the message alone.
      if (im.app !== null && typeof im.app === 'object' && typeof im.app.on === 'function') im.app.on('app:error', tell);
      return im;
    }
    // Apps make a machine by the class, by a class of their own that extends it, or by interact().
    toolkit.InteractionMachine = toolkit.interaction_machine.InteractionMachine = new Proxy(toolkit.InteractionMachine, {
      construct: (target, args, self) => watch(Reflect.construct(target, args, self)),
      apply(target, self, args) { const result = Reflect.apply(target, self, args); watch(self); return result; },
    });
    const interact = toolkit.interact;
    toolkit.interact = function (...args) { return watch(interact.apply(this, args)); };
    return toolkit;
  }

  Object.assign(globalThis, clocks, { global: globalThis, process, console: printers, queueMicrotask: (fn) => { Promise.resolve().then(fn); } });
  return {
    makeModule, makeRequire, run, clocks, withErrorStacks,
    fire: (id) => { const timer = timers[id]; if (timer) timer(); }, forget: (id) => { delete timers[id]; },
  };
}

const BOOTSTRAP = new vm.Script(`(${bootstrap})`, { filename: 'jsbox:library' });

/**
 * @param {{modulesDir: string, console: function(string, string), kept: object|null, clock: number}} options; `clock`: ms that its clock is ahead; `kept` is what codecache.js made of the bundled files
 * `now()` says whose turn it is, and `resume(run)` is told when a timer gives one its turn.
 * @returns {{load(name), preload(names), forgetKept(), pick(names), clearTimers(run), compiled(): object}}
 */
function createLibrary({ modulesDir, console: print, kept = null, clock = 0, now = () => null, resume = () => {} }) {
  const context = vm.createContext(vm.constants.DONT_CONTEXTIFY, { name: 'library', codeGeneration: { strings: true, wasm: false } });
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
      const source = known === undefined ? fs.readFileSync(file, 'utf8').replace(/^#!.*/, '') : known.source;
      const options = { filename: file, columnOffset: -BEFORE.length, cachedData: known === undefined ? undefined : known.data };
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
    if (BUILTINS.has(name) || FOR_PACKAGES.has(name)) { const found = require(`node:${name}`); return { exports: () => found }; }
    return { absent: name };
  }

  function resolve(from, name) {
    // Where a module is looked for: beside the one that asks, in the app's own node_modules, among the bundled toolkits.
    const places = [[from, name], [BUNDLED_FILE, name]];
    const key = path.relative(ROOT, path.dirname(from)) + '\0' + name;
    const known = modulesDir || kept === null ? undefined : kept.resolved.get(key);
    if (known !== undefined) return path.join(ROOT, known);
    if (modulesDir && !name.startsWith('.')) places.splice(1, 0, [path.join(modulesDir, 'app.js'), name], [BUNDLED_FILE, path.join(modulesDir, name)]);
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
    if (file === null) return { error: `Cannot find module '${name}', required by ${from}`, code: 'MODULE_NOT_FOUND' };
    if (file.endsWith('.json')) return { json: fs.readFileSync(file, 'utf8') };
    if (file.endsWith('.node')) return { error: `${name} is native code, which a sandbox cannot load`, code: 'ERR_DLOPEN_DISABLED' };
    if (file.endsWith('.mjs')) return { error: `${name} is an ES module; apps need the CommonJS build of it`, code: 'ERR_REQUIRE_ESM' };
    return { exports: () => loadFile(file) };
  }

  inside = BOOTSTRAP.runInContext(context)(find, startTimer, stopTimer, (fn) => host.nextTick(fn), print, host.version);
  for (const name of ['Buffer', 'TextEncoder', 'TextDecoder', 'URL', 'URLSearchParams']) context[name] = globalThis[name];

  const requireInside = inside.makeRequire(modulesDir ? path.join(modulesDir, 'app.js') : BUNDLED_FILE);
  const loaded = new Map();

  function load(name) {
    if (!loaded.has(name)) loaded.set(name, name === 'vumigo_v02' ? inside.withErrorStacks(requireInside(name)) : requireInside(name));
    return loaded.get(name);
  }

  return {
    load,
    /** What was kept has done its work: three megabytes. */
    forgetKept() { kept = null; },
    /** What has been loaded so far, compiled, for `kept` of another process. */
    compiled: () => ({
      files: new Map([...scripts].map(([file, { source, script }]) => [path.relative(ROOT, file), { source, data: script.createCachedData() }])),
      resolved,
    }),
    pick: (names) => Object.fromEntries(names.map((name) => [name, context[name]])),
    /** Those that were set while `run` had its turn. */
    clearTimers(run) {
      for (const [id, entry] of live) {
        if (entry.run !== run) continue;
        cancel(entry.timer);
        inside.forget(id);
        live.delete(id);
      }
    },
    /** Load what will be asked for, so that the first run need not wait for it; what fails to load fails again in a run. */
    preload(names) {
      for (const name of names) {
        try { load(name); } catch { /* the run that needs it will say so */ }
      }
    },
  };
}

module.exports = { createLibrary };
