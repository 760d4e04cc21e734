'use strict';
// The library realm: the bundled toolkits and the app's own node_modules, loaded once per process
// and kept between runs. What a run changes in them is put back when it ends (lib/watch.js).

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');
const { isBuiltin } = require('node:module');
const { inspect, types: { isNativeError } } = require('node:util');
const { bootstrap: bootstrapClasses, isClasses } = require('./classes');
const { setClock } = require('./clock');
const { bootstrap: bootstrapEvents } = require('./events');
const { frozenOfHost } = require('./host');
const { bootstrap: bootstrapInside } = require('./inside');
const { bootstrap: bootstrapMemory, isForTemplates, isRules } = require('./remember');
const { BUNDLED_FILE, resolve: resolveFile } = require('./resolve');
const { close, sealBuiltin } = require('./seal');
const { isQueue, resetBuffer, resetOf } = require('./toolkits');
const { createWatch } = require('./watch');
const { withYoungFunctions } = require('./young');

const ROOT = path.dirname(__dirname);
const BEFORE = '(function (exports, require, module, __filename, __dirname) {', AFTER = '\n})';
const DEEP = 2;                            // levels of properties that are watched
const DEEP_OURS = 3;                       // the same in packages that are sealed
const TIMERS = 1000;                       // live timers per process
// The modules of Node that an app may use: the same as in supervisor/config/node.py. All others are
// stand-ins that can be loaded but refuse to work.
const BUILTINS = new Set(['assert', 'buffer', 'crypto', 'events', 'path', 'querystring',
  'string_decoder', 'timers', 'url', 'util']);
// What packages, but not apps, may use besides: modules that only compute.
const FOR_PACKAGES = new Set(['stream', 'zlib', 'punycode', 'constants', 'stream/promises',
  'util/types', 'path/posix', 'assert/strict']);

// Of the library realm's own objects, those that are compared after every run.
const MAIN = ['Object', 'Function', 'Array', 'Promise'];
const INTRINSICS = ['String', 'Number', 'Boolean', 'Date', 'Error', 'JSON', 'Map', 'Set', 'RegExp',
  'TypeError', 'RangeError', 'Reflect', 'Math', 'Symbol', 'BigInt'];
// Those to which nothing can be added once the app's modules are loaded: no package does.
const CLOSED = ['ArrayBuffer', 'SharedArrayBuffer', 'DataView', 'Proxy', 'WeakMap', 'WeakSet',
  'WeakRef', 'FinalizationRegistry', 'Atomics', 'Intl', 'Iterator', 'Int8Array', 'Uint8Array',
  'Uint8ClampedArray', 'Int16Array', 'Uint16Array', 'Int32Array', 'Uint32Array', 'Float16Array',
  'Float32Array', 'Float64Array', 'BigInt64Array', 'BigUint64Array', 'EvalError', 'ReferenceError',
  'SyntaxError', 'URIError', 'AggregateError', 'SuppressedError', 'DisposableStack',
  'AsyncDisposableStack'];
// The packages whose functions are sealed: nobody puts properties on them.
const OURS = /^(vumigo_v0[12]|lodash|underscore|moment|q|jed)(\/|$)/;
// Those that have no name.
const NAMELESS = `[
  ['TypedArray', Object.getPrototypeOf(Int8Array)],
  ['ArrayIterator', [][Symbol.iterator]()], ['MapIterator', new Map()[Symbol.iterator]()],
  ['SetIterator', new Set()[Symbol.iterator]()], ['StringIterator', ''[Symbol.iterator]()],
  ['Generator', Object.getPrototypeOf(function* () {})],
  ['AsyncGenerator', Object.getPrototypeOf(async function* () {})],
  ['AsyncFunction', Object.getPrototypeOf(async function () {})],
]`;

const { setTimeout: later, clearTimeout: cancel, process: host } = globalThis;

const BOOTSTRAP = new vm.Script(`(${bootstrapInside})`, { filename: 'jsbox:library' });
const EVENTS = new vm.Script(`(${bootstrapEvents})`, { filename: 'jsbox:events' });
const MEMORY = new vm.Script(bootstrapMemory, { filename: 'jsbox:remember' });
const CLASSES = new vm.Script(`(${bootstrapClasses})`, { filename: 'jsbox:classes' });

/**
 * Make the library realm of a process.
 * @param `kept` is what codecache.js made of the bundled files, or null; `clock`: ms that its clock
 *   is ahead; `now()` returns the active run; `resume(run)` is called before a timer of it fires.
 * @returns {{load(name), preload(names), watchAll(names, globals), settle(): string, forgetKept(),
 *   pick(names), drainTimers(run), clearTimers(run), compiled(): object}}
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
  const handed = new Map();    // name -> what is handed out as that module of Node
  const unsealed = [];         // of these, Node's own that watchAll() is to seal
  let inside = null;

  // What to put back after a run; nothing is watched before the app is known.
  const resets = [];           // of the state that toolkits keep inside
  const queues = [];           // every copy of Q
  const watch = createWatch({
    onFunction(found) {
      const reset = resetOf(found);
      if (reset !== null) resets.push({ found, reset });
      if (isQueue(found)) queues.push(found);
    },
  });
  let isWatching = false, turn = 0;
  let mayBeSealed = true;      // whether functions that nobody changes may be sealed
  let loading = 0;             // calls that load, one inside the other
  let fresh = [];              // files that the run in progress has loaded
  let sizes = null;            // of what is watched, before it did

  function startTimer(id, ms, again, isOwn) {
    if (live.size >= TIMERS) return -1;
    const run = now();
    const fire = () => {
      if (again) live.set(id, { timer: later(fire, ms), run, isUrgent: false });
      else live.delete(id);
      resume(run);
      inside.fire(id);
    };
    const timer = later(fire, Math.min(Math.max(ms, 1), 0x7fffffff));
    live.set(id, { timer, run, isUrgent: isOwn && !again && ms <= 0 });
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
    loading++;
    try {
      const script = compile(file);
      inside.run(entry.module, entry.require, script.runInContext(context), path.dirname(file));
      if (isRules(file, entry.module.exports)) memory.rememberRules(entry.module.exports);
      if (isClasses(file)) CLASSES.runInContext(context)(entry.module.exports);
    } catch (error) {
      modules.delete(file);
      throw error;
    } finally {
      loading--;
      if (isWatching) { fresh.push(file); watchFresh(); }
    }
    return entry.module.exports;
  }

  function compile(file) {
    if (scripts.has(file)) return scripts.get(file).script;   // a run before has loaded it
    const known = kept === null ? undefined : kept.files.get(path.relative(ROOT, file));
    const source = known?.source
      ?? withYoungFunctions(file, fs.readFileSync(file, 'utf8').replace(/^#!.*/, ''));
    const options = { filename: file, columnOffset: -BEFORE.length, cachedData: known?.data };
    const script = new vm.Script(BEFORE + source + AFTER, options);
    scripts.set(file, { source, script });
    return script;
  }

  function watchFresh() {
    if (loading > 0) return;
    for (const file of fresh) addFile(file);
  }

  function addFile(file, depth) {
    const name = labelOf(file);
    watch.add(modules.get(file)?.module.exports, name, depth, mayBeSealed && OURS.test(name));
  }

  function labelOf(file) {
    const at = file.lastIndexOf('node_modules/');
    return (at < 0 ? path.basename(file) : file.slice(at + 'node_modules/'.length))
      .replace(/(\/index)?\.c?js$/, '');
  }

  function builtin(name) {
    if (!BUILTINS.has(name) && !FOR_PACKAGES.has(name)) return { absent: name };
    if (!handed.has(name)) {
      const own = { timers: inside.clocks, events: emitters.events };
      const found = own[name] ?? require(`node:${name}`);
      handed.set(name, found);
      if (own[name] === undefined) unsealed.push(found);
      if (isWatching) watchBuiltin(name, handed.get(name), DEEP);
      if (name === 'buffer') resets.push({ found: null, reset: resetBuffer(handed.get(name)) });
    }
    return { exports: () => handed.get(name) };
  }

  function resolve(from, name) {
    const key = path.relative(ROOT, path.dirname(from)) + '\0' + name;
    const known = modulesDir || kept === null ? undefined : kept.resolved.get(key);
    if (known !== undefined) return path.join(ROOT, known);
    const file = resolveFile(from, name, modulesDir);
    if (file !== null) resolved.set(key, path.relative(ROOT, file));
    return file;
  }

  function find(from, name) {
    if (isBuiltin(name)) return builtin(name.replace(/^node:/, ''));
    let file = null;
    try {
      file = resolve(from, name);
    } catch ({ message, code }) {
      return { error: message, code };
    }
    if (file === null) {
      const error = `Cannot find module '${name}', required by ${from}`;
      return { error, code: 'MODULE_NOT_FOUND' };
    }
    if (file.endsWith('.json')) {
      return { json: fs.readFileSync(file, 'utf8').replace(/^\ufeff/, '') };   // as Node does
    }
    if (file.endsWith('.node')) {
      const error = `${name} is native code, which a sandbox cannot load`;
      return { error, code: 'ERR_DLOPEN_DISABLED' };
    }
    if (file.endsWith('.mjs')) {
      const error = `${name} is an ES module; apps need the CommonJS build of it`;
      return { error, code: 'ERR_REQUIRE_ESM' };
    }
    if (isForTemplates(from, name)) {
      return { exports: () => memory.rememberTemplates(loadFile(file)) };
    }
    return { exports: () => loadFile(file) };
  }

  const nextTick = (fn) => host.nextTick(fn);
  const make = BOOTSTRAP.runInContext(context);
  inside = make(find, startTimer, stopTimer, nextTick, print, host.version);
  for (const name of ['Buffer', 'TextEncoder', 'TextDecoder', 'URL', 'URLSearchParams']) {
    context[name] = globalThis[name];
  }

  const emitters = EVENTS.runInContext(context)(isNativeError, inspect);
  const memory = MEMORY.runInContext(context);

  const requirer = modulesDir ? path.join(modulesDir, 'app.js') : BUNDLED_FILE;
  const requireInside = inside.makeRequire(requirer);
  const loaded = new Map();

  function load(name) {
    if (!loaded.has(name)) {
      loading++;
      try {
        const found = requireInside(name);
        loaded.set(name, name === 'vumigo_v02' ? inside.withErrorStacks(found) : found);
      } finally {
        loading--;
        if (isWatching) watchFresh();
      }
      if (isWatching) watch.heat(loaded.get(name));
    }
    return loaded.get(name);
  }

  /** Watch all that has been loaded; compare after every run what the app names or is given. */
  function watchAll(names, globals) {
    const wanted = names.filter((name) => loaded.has(name));
    const files = [...modules].filter(([, { module }]) => module.loaded);
    // Not as a run loads them: a seal on what is watched would be taken for the run's work.
    const sealed = unsealed.splice(0);
    for (const found of sealed) sealBuiltin(found);
    if (isWatching && (files.length > sizes.files || sealed.length > 0)) watch.retake();
    isWatching = true;
    for (const found of frozenOfHost()) watch.ignore(found);
    // Lodash 1 and 2 put a property on every function that they are given.
    mayBeSealed &&= !files.some(([, { module }]) => Boolean(module.exports?.createCallback));
    for (const name of CLOSED) close(context[name]);
    for (const name of Object.getOwnPropertyNames(context.Intl)) close(context.Intl[name]);
    const nameless = vm.runInContext(NAMELESS, context);
    for (const [name, found] of nameless) {
      close(found);
      if (name.endsWith('Iterator')) close(Object.getPrototypeOf(found));
    }
    watch.add(context, '', 1, mayBeSealed);
    watch.add(context.Intl, 'Intl', 1, mayBeSealed);
    for (const name of ['process', 'console']) watch.add(context[name], name);
    for (const [name, found] of nameless) watch.add(found, name, 0, mayBeSealed);
    for (const name of ['Error', 'TypeError', 'RangeError']) watch.add(globalThis[name], name, 0);
    const isOurs = (name) => OURS.test(name) || handed.has(name.replace(/^node:/, ''));
    for (const name of wanted.toSorted((a, b) => isOurs(b) - isOurs(a))) {
      const depth = OURS.test(name) ? DEEP_OURS : DEEP;
      watch.add(loaded.get(name), name, depth, mayBeSealed && isOurs(name));
    }
    // What withErrorStacks hands out is a proxy.
    const machine = loaded.get('vumigo_v02')?.InteractionMachine.prototype;
    watch.add(machine, 'InteractionMachine.prototype', 0);
    for (const [file, { module }] of files) {
      if (isQueue(module.exports)) addFile(file);
    }
    // What no app reaches without going out of its way.
    for (const [file] of files) addFile(file, 1);
    for (const [name, found] of handed) watchBuiltin(name, found, wanted.includes(name) ? DEEP : 0);
    watch.add(emitters.events, 'events', DEEP, mayBeSealed);

    for (const name of MAIN) watch.heat(context[name], { depth: 0, isRoot: false });
    for (const name of wanted) watch.heat(loaded.get(name));
    for (const found of [emitters.events, ...queues]) watch.heat(found);
    const near = { depth: 0, mayBeCore: false };
    watch.heat(context, near);
    for (const name of [...INTRINSICS, ...globals]) watch.heat(context[name], near);
    inside.forgetMatch();
    takeSizes(files.length);
  }

  function watchBuiltin(name, found, depth) {
    watch.add(found, name, depth, mayBeSealed && !unsealed.includes(found));
    if (name !== 'util') return;
    watch.add(inspect.defaultOptions, 'util.inspect.defaultOptions', 0);   // behind a getter
    watch.heat(inspect.defaultOptions);
  }

  function takeSizes(files = modules.size) {
    sizes = { files, watched: watch.count(), resets: resets.length, queues: queues.length };
    fresh = [];
  }

  /** Undo what the run has loaded: what its modules have changed in others was put back. */
  function forgetFresh() {
    for (const file of fresh) modules.delete(file);
    for (const [name, found] of loaded) {
      if (![...modules.values()].some(({ module }) => module.exports === found)
        && ![...handed.values()].includes(found)) loaded.delete(name);
    }
    watch.shrink(sizes.watched);
    resets.length = sizes.resets;
    queues.length = sizes.queues;
    for (const [name, found] of handed) watchBuiltin(name, found, DEEP);
  }

  /**
   * Put the library back to what it was before the runs that have ended; none is in progress.
   * @returns {string} What cannot be put back, or ''.
   */
  function settle(isComplete = false) {
    if (!isWatching) return '';
    let found = watch.check({ isComplete });
    turn++;
    for (let i = 0; i < resets.length && typeof found !== 'string'; i++) {
      // A toolkit's own copy of another, which no app reaches, in turn.
      const isDue = isComplete || watch.isHot(resets[i].found) || turn % resets.length === i;
      const reset = isDue && resets[i].reset();
      if (typeof reset === 'string') found = reset; else found ||= reset;
    }
    emitters.reset();
    inside.forgetMatch();
    if (typeof found === 'string') return found;
    if (found && fresh.length > 0) forgetFresh();
    if (fresh.length > 0 || watch.count() !== sizes.watched) takeSizes();
    return '';
  }

  return {
    load,
    watchAll,
    settle,
    watched: () => watch.sizes(),
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
    /**
     * Finish what the toolkits have begun for a run that failed: when a task throws, Q goes on with
     * the rest of its queue by such a timer, and until then takes no task of another run.
     */
    drainTimers(run) {
      for (let left = TIMERS; left > 0; left--) {
        const due = [...live].find(([, timer]) => timer.run === run && timer.isUrgent);
        if (due === undefined) return;
        stopTimer(due[0]);
        try { inside.fire(due[0]); } catch { /* the run has failed already */ }
      }
    },
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
