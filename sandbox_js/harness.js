'use strict';
// The program inside a sandbox: loads one app, gives each run a fresh V8 context, and speaks the
// wire protocol (JSON lines on stdin and stdout, with one supervisor). It is no security boundary:
// code that runs here may take over this process; the jail around it is what holds.
//
// Three realms (JavaScript's word for a set of globals), so that plain mistakes stay small:
//   host     this file and Node itself; lives as long as the process
//   library  the toolkits and the app's node_modules; loaded once and kept (lib/library.js)
//   app      the app's code; made anew for every run and forgotten after it (lib/realm.js)
// Only strings and numbers cross between host and app; functions of the host stay inside closures.

const { AsyncLocalStorage } = require('node:async_hooks');
const vm = require('node:vm');
const { isBuiltin } = require('node:module');
const { hardenHost } = require('./lib/host');
const { createHeap } = require('./lib/heap');
const { readLines, write } = require('./lib/wire');
const { createLibrary } = require('./lib/library');
const { createRealm } = require('./lib/realm');
const { read } = require('./lib/kept');

const { setImmediate: defer, setTimeout: later, process: host } = globalThis;
const parse = JSON.parse, stringify = JSON.stringify;

let settings = null;   // the fields of `initialize`
let config = new Map();
let burst = 0;         // commands of a run that may be answered here (see lib/realm.js)
let library = null;
let clock = 0;         // ms that the app's clock is ahead of the real one
let script = null;     // the app, compiled once
let broken = null;     // why it could not be compiled
let stacks = null;     // what shows stacks (lib/stacks.js), once there was one
// The runs in progress, {run, realm, flushing, isProbe} by their ids. One of them is active:
// whatever is called until the event loop goes on belongs to it (its promises, its ticks). It
// becomes active by a line for it, or by one of its timers. So runs never share a turn of the event
// loop. What Node calls later for a run (the callback of crypto.randomBytes, say) belongs to the
// run in `context`.
const runs = new Map();
const context = new AsyncLocalStorage();
let active = null;     // the id of the active run, or of the last that was
let only = null;       // the run in progress, if there is one at a time
let coming = null;     // of the next run, made while there was none in progress
let isWarned = false;  // of `leftover`
let leftover = '';     // why the process must take no run after those in progress
let foreseen = '';     // the line with what the next run will probably read first
let told = null;       // the active run that the supervisor knows of
let lastRun = null;
let lastId = 0;        // one counter of cmd_ids a process, never reset
let inbox = null;      // if there may be several runs: lines, each of which waits for its own turn
let resting = null;    // the timer of `rest`
let collect = null;    // V8's garbage collector, once it was needed
const REST_AFTER = 5000;   // ms without a run
const TURNS = { now: whose, resume: turnTo };
const heap = createHeap(host.execArgv, () => collectGarbage());
let allowed = [];      // what require() gives; Node's own modules with and without `node:`
const absent = new Set();   // names that require() gave null for
const ABSENT_MAX = 100;
const NO_HANDLER = 'the app sets no api.on_inbound_message, so nothing would handle a message';
const early = [];      // console lines from before the first run
const EARLY_MAX = 50;

function line(command) {
  write(stringify(command) + '\n');
}

function turnTo(run) {
  // Reported ahead: if the run then loops for ever, the supervisor knows which one it is.
  if (inbox !== null && run !== told && runs.size > 1) {
    told = run;
    line({ cmd: 'js.turn', cmd_id: 'h', reply: false, run });
  }
  active = run;
  context.enterWith(run);
}

function whose() {
  // The run for which code is running now.
  return context.getStore() ?? active;
}

function fail(kind, report) {
  // Report what a run did wrong. The run is over: the supervisor ends the process.
  const run = whose(), entry = runs.get(run);
  if (entry === undefined ? lastRun !== null : entry.realm.isOver()) { failLate(report); return; }
  if (entry !== undefined) {
    // What the app asked for before it failed still counts: the log line before the throw is often
    // the useful one.
    try { write(entry.realm.flush(true)); } catch { /* that failure is the one being reported */ }
    endRun(entry, inbox !== null);
    defer(forget, entry);
  }
  line({ cmd: 'js.error', cmd_id: 'h', reply: false, run: entry ? run : null, kind, ...report });
}

function failLate({ message, stack }) {
  // Code that a run has left behind has failed. That is no fault of the runs in progress.
  const text = stack.includes(message) ? stack : `${message}\n${stack}`.trim();
  leftover ||= `code that ran on after api.done() failed: ${text}`;
}

function endRun({ run }, isDrained = false) {
  lastRun = run;
  runs.delete(run);
  if (isDrained) library.drainTimers(run);
  library.clearTimers(run);
  if (resting === null) resting = later(rest, REST_AFTER); else resting.refresh();
}

function forget({ realm }) {
  try { realm.forget(); } catch { /* an app may have frozen its globals; then they stay */ }
}

function rest() {
  // An idle process frees what its runs left behind; V8 alone would keep it until it needs the
  // memory. About 20 ms.
  if (runs.size > 0) return;
  leftover ||= settle(true);
  collectGarbage();
}

function collectGarbage() {
  if (collect === null) collect = collector();
  collect({ type: 'major', flavor: 'last-resort' });
}

function collector() {
  // Taken from a context of its own. Not done at the start, of which it would take a fifth.
  // Contexts that are made later have no `gc`.
  const { setFlagsFromString } = require('node:v8');
  setFlagsFromString('--expose-gc');
  const found = vm.runInNewContext('gc');
  setFlagsFromString('--no-expose-gc');
  return found;
}

function describe(error) {
  // An error of any realm as plain strings; its getters may throw or lie.
  const read = (name) => { try { return `${error[name]}`; } catch { return ''; } };
  let text = '';
  try { text = `${error}`; } catch { text = 'an error that cannot be shown'; }
  const isObject = error !== null && typeof error === 'object';
  const stack = isObject && read('stack') !== 'undefined' ? shownStack(read('stack')) : '';
  return { message: text.slice(0, 4000), stack: stack.slice(0, 8000) };
}

function shownStack(stack) {
  // Without the frames of this harness and of Node itself, which would only puzzle the developer.
  if (!stack.includes('\n    at ')) return stack;
  if (stacks === null) {
    const hidden = [__dirname + '/lib/', __filename, '(node:', 'at node:', 'jsbox:'];
    const { filename, javascript: source, source_map: map, modules_dir } = settings ?? {};
    const { createStacks } = require('./lib/stacks');   // most processes never need it
    stacks = createStacks({ hidden, filename, source, map, modulesDir: modules_dir });
  }
  return stacks.show(stack);
}

function enter(kind, call) {
  try {
    return call();
  } catch (error) {
    fail(kind, describe(error));
    return undefined;
  }
}

function flushSoon(entry) {
  if (entry.flushing) return;
  defer(flush, entry);
  // Only now: an app at the end of its stack gets a RangeError in `defer`, and may go on.
  entry.flushing = true;
}

function flush(entry) {
  entry.flushing = false;
  if (!runs.has(entry.run)) return;
  turnTo(entry.run);
  const mayWait = enter('throw', entry.realm.answerOwn);
  if (mayWait) flushSoon(entry); else writeNow(entry);
}

function writeNow(entry) {
  if (!runs.has(entry.run)) return;
  const text = enter('throw', () => entry.realm.flush());
  if (text) write(text);
  if (runs.has(entry.run) && entry.realm.isOver()) defer(finish, entry);
}

function finish(entry) {
  // The app is done, and what it had queued (promises, ticks) has run: from now on nothing of it
  // should. The last of several runs in progress has the library put back for all of them.
  const { run } = entry;
  if (!runs.has(run)) return;
  turnTo(run);
  endRun(entry);
  if (runs.size === 0) leftover ||= settle();
  const measured = heap.measure();
  if (heap.isFull()) leftover ||= 'what runs left alive fills the heap';
  if (leftover) warn(run, `this process takes no more messages: ${leftover}`);
  const done = { cmd: 'js.done', cmd_id: `${++lastId}`, reply: false, heap: measured, run };
  if (leftover) done.retire = leftover;
  line(done);
  // Only now, when nobody waits any more.
  forget(entry);
  makeAhead();
}

function settle(isComplete = false) {
  try {
    const changed = library.settle(isComplete);
    return changed && `${changed} by a run, and cannot be put back`;
  } catch (error) {
    return `its modules cannot be put back: ${describe(error).message}`;
  }
}

function warn(run, msg) {
  if (isWarned) return;
  isWarned = true;
  line({ cmd: 'js.console', cmd_id: 'h', reply: false, level: 'warning', msg, run });
}

function say(level, text) {
  // A library's console. What it prints while it is loaded before the first run belongs to that
  // run.
  const entry = runs.get(whose());
  if (level === 'error') text = shownStack(text);
  if (entry !== undefined) entry.realm.console(level, text);
  else if (lastRun === null && early.length < EARLY_MAX) early.push([level, text]);
}

function prepare(command) {
  // A spare process: everything that needs no app.
  library = createLibrary({ modulesDir: '', console: say, kept: read(host.argv[2]), ...TURNS });
  library.preload(command.modules);
  library.watchAll([], []);
  line({ cmd: 'js.ready', cmd_id: 'h', reply: false, run: null });
}

function whyNull(name) {
  // Said once a process and name: null is what Vumi gave, too, and some apps try several names.
  if (absent.has(name) || absent.size >= ABSENT_MAX) return '';
  absent.add(name);
  const gave = `require('${name.slice(0, 200)}') gave null: `;
  if (isBuiltin(name)) return gave + 'add it to modules, if it is one that apps may have';
  if (/^[./]/.test(name)) return gave + 'an app is one file; put that file into it';
  return gave + 'add it to modules, npm install it';
}

function initialize(command) {
  settings = command;
  allowed = settings.modules.flatMap((name) => (isBuiltin(name) ? [name, `node:${name}`] : name));
  inbox = settings.messages_in_flight > 1 ? [] : null;
  clock = typeof settings.clock === 'number' ? settings.clock - Date.now() : 0;
  if (library === null || settings.modules_dir) {
    const modulesDir = settings.modules_dir, kept = read(host.argv[2]);
    library = createLibrary({ modulesDir, console: say, kept, clock, ...TURNS });
  }
  try {
    script = new vm.Script(settings.javascript, { filename: settings.filename });
  } catch (error) {
    broken = describe(error);
  }
  const calls = settings.javascript.matchAll(/\brequire\s*\(\s*['"]([^'"]+)['"]\s*\)/g);
  const named = [...calls].map(([, name]) => name);
  const wanted = named.filter((name) => allowed.includes(name));
  library.preload(wanted);
  library.watchAll(wanted, settings.globals);
  library.forgetKept();
  line({ cmd: 'js.ready', cmd_id: 'h', reply: false, run: null });
  defer(makeAhead);
}

function makeEntry() {
  const entry = { run: null, realm: null, flushing: false, isProbe: false };
  entry.realm = createRealm({
    nextId: () => ++lastId,
    flushSoon: () => { if (!entry.isProbe) flushSoon(entry); },
    writeNow: () => { if (!entry.isProbe) writeNow(entry); },
    allowed,
    load: library.load,
    clock,
    whyNull,
    shownStack,
  });
  return entry;
}

function makeAhead() {
  // Who sends the next message does not wait for it: an eighth of the time until the reply.
  if (coming === null && runs.size === 0 && broken === null && !leftover) coming = makeEntry();
}

function startRun(command, text) {
  // A message or an event; or a probe, which only loads the app: what the app asks goes nowhere.
  const isProbe = command.cmd === 'inbound-probe';
  const values = config, entry = coming ?? makeEntry(), { realm } = entry;
  coming = null;
  entry.run = command.run;
  entry.isProbe = isProbe;
  realm.begin({
    run: command.run,
    globals: library.pick(settings.globals),
    configOf: (key) => values.get(key) ?? null,
    burst,
    foreseen,
  });
  foreseen = '';
  runs.set(command.run, entry);
  only = command.run;
  turnTo(command.run);
  for (const [level, text] of early.splice(0)) realm.console(level, text);
  if (broken !== null) { fail('load', broken); return; }
  enter('load', () => script.runInContext(realm.context, { displayErrors: !isProbe }));
  const kind = runs.has(command.run) && !enter('load', realm.handlesAny) ? 'load' : 'throw';
  if (isProbe) { defer(endProbe, entry); return; }
  if (runs.has(command.run)) enter(kind, () => realm.deliver(text));
  flushSoon(entry);
}

function endProbe(entry) {
  // What the app did when it was loaded has run: its promises, its ticks.
  if (!runs.has(entry.run)) return;
  enter('load', () => {
    const { realm } = entry;
    // An app may do its work as it is loaded, or set its handler in a callback.
    const acts = realm.handlesAny() || realm.isOver() || realm.flush() !== '';
    if (!acts) throw new Error(NO_HANDLER);
  });
  finish(entry);
}

// The start of a reply as the supervisor writes it (protocol.py): its run, without parsing the
// line.
const TEXT = '"(?:[^"\\\\]|\\\\.)*"';
const OF_RUN = new RegExp(`^\\{"reply":true,"cmd":${TEXT},"cmd_id":${TEXT},"run":"([^"\\\\]*)"`);

function takeReply(text) {
  const named = inbox === null ? only : (OF_RUN.exec(text) || [])[1];
  const entry = runs.get(named);
  if (entry === undefined) return;
  turnTo(named);
  enter('throw', () => entry.realm.deliver(text));   // the realm checks the run that the line names
}

function take(text) {
  // Most lines are replies: they go to the realm unparsed.
  if (text.startsWith('{"reply":true,')) { takeReply(text); return; }
  if (text.startsWith('{"foreseen":true,')) { foreseen = text; return; }
  const command = parse(text);
  if (command.cmd === 'initialize') initialize(command);
  else if (command.cmd === 'prepare') prepare(command);
  else if (command.cmd === 'config') {
    config = new Map(Object.entries(command.values));
    burst = command.burst;
  } else if (command.cmd === 'exit') host.exit(0);
  else startRun(command, text);
}

function takeNext() {
  take(inbox.shift());
  if (inbox.length > 0) defer(takeNext);
}

readLines((text) => {
  if (inbox === null) take(text);
  else if (inbox.push(text) === 1) defer(takeNext);
}, () => host.exit(0));

host.on('uncaughtException', (error) => fail('throw', describe(error)));
host.on('unhandledRejection', (error) => fail('rejection', describe(error)));

// What an app that reached this realm does not need. Only hygiene: see the top of this file.
const UNNEEDED = ['process', 'require', 'fetch', 'WebSocket', 'EventSource', 'navigator',
  'localStorage', 'sessionStorage'];
for (const name of UNNEEDED) delete globalThis[name];
hardenHost(host);
