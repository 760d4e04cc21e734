'use strict';
// The realm of one run: a fresh V8 context with `api`, `require` and the granted globals, and
// nothing else. It is made before its run is known, and given to one run (`begin`).

const vm = require('node:vm');
const { setClock } = require('./clock');

const FLUSH_AT = 200;              // commands that wait until the app returns; more are written
const FRESH = 100;                 // ms for which what was read ahead may be given
const CONSOLE_BYTES = 64 * 1024;   // of console lines in a run; beyond it, one line says so

// This function is only used as text: it runs INSIDE the app's realm, so that everything the app
// can touch belongs to that realm. It keeps the host's functions in its closure, and takes every
// primordial it needs before the app's code runs.
function bootstrap(nextId, flushSoon, writeNow, load, allowed, consoleBytes, flushAt, isFresh,
  whyNull, stackOf) {
  'use strict';
  const { parse, stringify } = JSON;
  const { create, defineProperty, prototype: ObjectPrototype } = Object;
  const call = Function.prototype.call.bind(Function.prototype.call);
  const { replace, slice, startsWith } = String.prototype;
  const { push, shift, join } = Array.prototype;
  const { isArray } = Array;
  const ErrorType = Error, TypeErrorType = TypeError, text = String;

  let run = null, configOf = null, burstLeft = 0, foreseen = '';   // see `begin`
  let queue = [];                 // {message, name, cmd_id, told} or {line}: not yet written
  let urgent = false;             // whether anything in the queue needs the supervisor
  let own = [];                   // replies that are given here, not yet delivered
  let ready = [];                 // lines of the flush in progress
  const pending = create(null);   // cmd_id -> {callback, slow}: requests not yet answered
  const awaited = create(null);   // cmd_ids whose replies done() still waits for
  let awaiting = 0;
  let finishing = false, over = false;
  let consoleLeft = consoleBytes;

  const LOGS = {
    __proto__: null, 'log.log': true, 'log.info': true, 'log.debug': true, 'log.warning': true,
    'log.error': true, 'log.critical': true,
  };

  function ownReply(name, message, cmd_id) {
    // If only one reply is possible, it is given here and the command is reported to the
    // supervisor: half of an app's commands are of this kind, and each saves two process switches.
    // Only within the burst of a run: what comes beyond it is slowed down by the supervisor.
    if (--burstLeft < 0) return null;
    const reply = { cmd: name, cmd_id, reply: true, success: true };
    if (name === 'config.get' && typeof message.key === 'string') {
      reply.value = configOf(message.key);
      return reply;
    }
    if (name === 'kv.get' && foreseen !== '' && isFresh()) {
      // The supervisor has read it when it sent the message.
      const { key, value } = parse(foreseen);
      if (key !== message.key) return null;
      foreseen = '';
      reply.value = value;
      return reply;
    }
    const isPlainLog = LOGS[name] && typeof message.msg === 'string' && message.level === undefined;
    return isPlainLog ? reply : null;
  }

  function request(name, message, callback) {
    if (over) return;
    name = text(name);
    if (message === null || typeof message !== 'object' || isArray(message)) {
      const got = isArray(message) ? 'an array' : text(message);
      throw new TypeErrorType('api.request(' + name + '): the second argument must be an object,'
        + ' got ' + call(slice, got, 0, 100));
    }
    if (call(startsWith, name, 'js.')) {   // lines of the harness itself
      throw new TypeErrorType('api.request(' + name + '): there is no such command');
    }
    const cmd_id = text(nextId());
    message.cmd = name;
    message.cmd_id = cmd_id;
    message.reply = false;
    // An app at the end of its stack gets a RangeError in any call here, and may go on: what is
    // only half asked must not be waited for.
    const slow = call(startsWith, name, 'http.');
    const entry = { callback: typeof callback === 'function' ? callback : null, slow };
    const reply = ownReply(name, message, cmd_id);
    if (reply !== null) call(push, own, reply);
    else { urgent = true; foreseen = ''; }
    call(push, queue, { message, name, cmd_id, told: reply !== null });
    pending[cmd_id] = entry;
    if (queue.length >= flushAt) writeNow(); else flushSoon();
  }

  function done() {
    // In Vumi `done` waited for the reply to a "Done." line of its own, and so for every quick
    // command before it: their callbacks still run. A slow http call is completed too, but nobody
    // waits for its reply.
    if (finishing) return;
    finishing = true;
    for (const cmd_id in pending) {
      if (!pending[cmd_id].slow) { awaited[cmd_id] = true; awaiting++; }
    }
    flushSoon();
  }

  const api = {
    request,
    log_info(message, callback) { api.request('log.info', { msg: message }, callback); },
    done,
    on_unknown_command() {},
  };
  const silent = api.on_unknown_command;

  function handle(command) {
    const name = 'on_' + call(replace, call(replace, text(command.cmd), '.', '_'), '-', '_');
    const handler = typeof api[name] === 'function' ? api[name] : api.on_unknown_command;
    if (handler !== silent) call(handler, api, command);
    else if (name === 'on_inbound_event') done();   // an app may ignore events
    else {
      throw new ErrorType('the app has no api.' + name + ': nothing handles this '
        + text(command.cmd));
    }
  }

  function handlesAny() {
    const { on_inbound_message, on_inbound_event, on_unknown_command: other } = api;
    const isOwn = typeof other === 'function' && other !== silent;
    return isOwn || typeof on_inbound_message === 'function'
      || typeof on_inbound_event === 'function';
  }

  function deliver(line) {
    if (over) return;
    const command = parse(line);
    if (command.run !== run) return;
    delete command.run;
    if (command.reply) settle(command); else handle(command);
  }

  function settle(command) {
    const { cmd_id } = command, entry = pending[cmd_id];
    if (entry === undefined) return;
    delete pending[cmd_id];
    if (awaited[cmd_id]) { delete awaited[cmd_id]; if (--awaiting === 0) flushSoon(); }
    if (entry.callback !== null) call(entry.callback, api, command);
  }

  function answerOwn() {
    // Deliver the replies that are given here. Returns whether what is queued can wait, to be
    // written with what the app asks next.
    const due = own;
    own = [];
    for (let i = 0; i < due.length && !over; i++) settle(due[i]);
    return due.length > 0 && !urgent && !over;
  }

  function flush(failed) {
    // Lines for everything asked for so far. After a failure they go out too, but no `done`.
    if (over) return '';
    const suffix = ',"run":' + stringify(run) + '}\n';
    urgent = false;
    while (queue.length > 0) {
      const { message, name, cmd_id, line, told } = call(shift, queue);
      if (message === undefined) { call(push, ready, line + suffix); continue; }
      message.cmd = name;        // again, for an object that was handed over twice
      message.cmd_id = cmd_id;
      let json;
      // What cannot be written fails the run; after a failure it must not take the rest with it.
      try { json = stringify(message); } catch (error) { if (failed) continue; throw error; }
      // If the message has a member `run` itself, ours comes last and counts. `reply` is null if
      // the app already has its reply.
      const end = told ? ',"reply":null' + suffix : suffix;
      if (typeof json !== 'string' || json[0] !== '{') {
        if (failed) continue;
        throw new TypeErrorType('api.request(' + name + '): the second argument must be an object'
          + ' in JSON, too; there it is ' + call(slice, text(json), 0, 100));
      }
      call(push, ready, call(slice, json, 0, -1) + end);
    }
    if (finishing && awaiting === 0 && !failed) over = true;   // the harness reports it
    const lines = call(join, ready, '');
    ready = [];
    return lines;
  }

  function show(value) {
    if (typeof value === 'string') return value;
    if (typeof value === 'symbol' || typeof value === 'function') return text(value);
    if (value === null || typeof value !== 'object') return text(value);
    try {
      const { stack } = value;
      if (typeof stack === 'string') return stackOf(stack);
      const json = stringify(value);
      return json === undefined ? text(value) : json;
    } catch { /* it cannot be shown as what it is */ }
    try { return call(ObjectPrototype.toString, value); } catch { return '[object Object]'; }
  }

  function consoleLine(level, line) {
    if (over || consoleLeft < 0) return;
    consoleLeft -= line.length;
    if (consoleLeft < 0) {
      level = 'warning';
      line = 'console: more than ' + consoleBytes + ' characters in this run, the rest is dropped';
    }
    const head = '{"cmd":"js.console","cmd_id":"h","reply":false,"level":"';
    call(push, queue, { line: head + level + '","msg":' + stringify(line) });
    flushSoon();
  }

  const printers = create(null);
  const LEVELS = {
    __proto__: null, log: 'info', info: 'info', debug: 'debug', trace: 'debug', dir: 'info',
    warn: 'warning', error: 'error', assert: 'error',
  };
  for (const name in LEVELS) {
    printers[name] = 0 || function (...values) {   // see young.js
      if (name === 'assert') { if (values[0]) return; values[0] = 'Assertion failed'; }
      const parts = [];
      for (let i = 0; i < values.length; i++) call(push, parts, show(values[i]));
      consoleLine(LEVELS[name], call(join, parts, ' '));
    };
  }
  const built = typeof console === 'object' ? console : {};   // V8's own, else silent
  for (const name in printers) built[name] = printers[name];

  function require(name) {
    name = text(name);
    for (let i = 0; i < allowed.length; i++) if (allowed[i] === name) return load(name);
    const why = whyNull(name);
    if (why !== '') consoleLine('warning', why);
    return null;
  }

  const define = (name, value) => {
    const how = { value, writable: true, configurable: true, enumerable: true };
    defineProperty(globalThis, name, how);
  };
  define('api', api);
  define('require', require);

  function begin(its, globals, config, burst, ahead) {
    run = its;
    configOf = config;
    burstLeft = burst;
    foreseen = ahead;
    for (const name in globals) define(name, globals[name]);
  }

  const { ownKeys, defineProperty: set } = Reflect, self = globalThis;

  function forget() {
    // V8 treats a context as an old object from the start: what it refers to counts as alive, and
    // is copied about, until a full collection. So at the end of a run it lets go of what the app
    // left.
    const nothing = { value: undefined };
    for (const name in printers) set(built, name, nothing);
    const names = ownKeys(self);
    for (let i = names.length - 1; i >= 0; i--) set(self, names[i], nothing);
  }

  return {
    begin, deliver, forget, handlesAny, answerOwn, flush, console: consoleLine,
    isOver: () => over,
  };
}

const BOOTSTRAP = new vm.Script(`(${bootstrap})`, { filename: 'jsbox:bootstrap' });

/**
 * Make a realm for a run.
 * @param `clock`: ms that its clock is ahead; `whyNull(name)`: what to log when require() gives
 *   null, or ''.
 * @returns {{context, begin(options), handlesAny(): boolean, deliver(line), answerOwn(): boolean,
 *   flush(): string, forget(), console(level, text), isOver(): boolean}} `begin` comes first, and
 *   gives it to a run: `configOf` gives a value of the app's config; `burst`: how many commands of
 *   the run may be answered here; `foreseen`: the line with what it probably reads first, or ''.
 *   `handlesAny`: whether the app has set any handler.
 */
function createRealm({
  nextId, flushSoon, writeNow, load, allowed, clock = 0, whyNull = () => '',
  shownStack = (stack) => stack,
}) {
  const context = vm.createContext(vm.constants.DONT_CONTEXTIFY, {
    name: 'app', codeGeneration: { strings: true, wasm: false },
  });
  setClock(context, clock);
  const { now } = Date;
  let until = 0;
  const isFresh = () => now() < until;
  const list = vm.runInContext('[]', context);   // must belong to the realm in which it is read
  for (const name of allowed) list.push(name);
  const { begin, ...inside } = BOOTSTRAP.runInContext(context)(nextId, flushSoon, writeNow, load,
    list, CONSOLE_BYTES, FLUSH_AT, isFresh, whyNull, shownStack);
  return {
    context,
    begin({ run, globals, configOf, burst, foreseen = '' }) {
      until = now() + FRESH;
      begin(run, globals, configOf, burst, foreseen);
    },
    ...inside,
  };
}

module.exports = { createRealm };
