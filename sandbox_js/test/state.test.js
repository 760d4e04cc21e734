'use strict';
// What a run leaves behind in the modules of its process, and that the next run finds none of it.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const util = require('node:util');
const { createLibrary } = require('../lib/library');
const { handler, start } = require('./start');

const MODULES = ['vumigo_v02', 'vumigo_v01', 'lodash', 'moment', 'q', 'events', 'util', 'buffer',
  'url', 'querystring', 'crypto', 'timers', 'string_decoder', 'path', 'assert'];
const SPARE = ['vumigo_v02', 'lodash', 'moment', 'q', 'jed'];   // TOOLKITS of config/node.py
// Says what the `code` of a message returns, as an app that compiles templates might.
const APP = `
  var _ = require('lodash'), moment = require('moment'), Q = require('q');
  var events = require('events'), util = require('util'), vumigo = require('vumigo_v02');
  var names = ${JSON.stringify(MODULES)}.map(function (name) { return [name, require(name)]; });
  ${handler(`
    var said = eval('(function () {' + command.msg.code + '})')();
    api.log_info(String(said), function () { setTimeout(api.done, 0); });`)}
  var setTimeout = require('timers').setTimeout;
  // ${MODULES.map((name) => `require('${name}')`).join(' ')}`;

/** What runs with such codes say; with `retire` if the process takes no more after one. */
async function talk(t, codes, options = {}) {
  const harness = options.harness ?? await start(t, APP, { modules: MODULES, ...options });
  const said = [];
  for (const [n, code] of codes.entries()) {
    harness.deliver(`r${n}`, { code });
    const log = await harness.next();
    assert.equal(log.cmd, 'log.info', JSON.stringify(log));
    harness.reply(log);
    let done = await harness.next(), warned = '';
    if (done.cmd === 'js.console') { warned = done.msg; done = await harness.next(); }
    assert.equal(done.cmd, 'js.done', JSON.stringify(done));
    said.push(done.retire ? { said: log.msg, retire: done.retire, warned } : log.msg);
  }
  return said;
}

/** The folder of an app's own packages, from their names and sources. */
function packages(t, sources) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'jsbox-test-'));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  const modules_dir = path.join(folder, 'node_modules');
  for (const [name, source] of Object.entries(sources)) {
    fs.mkdirSync(path.join(modules_dir, name), { recursive: true });
    fs.writeFileSync(path.join(modules_dir, name, 'index.js'), source);
  }
  return modules_dir;
}

const DATE = 'return moment.utc(0).format("dddd")';
const same = [
  ['the locale of moment', 'moment.locale("fr")', DATE],
  ['the locale of moment, again', 'moment.locale("fr"); moment.locale("de")', DATE],
  ['a locale that was updated',
    'moment.updateLocale("en", {weekdays: "a_b_c_d_e_f_g".split("_")})', DATE],
  ['a locale that was defined', 'moment.defineLocale("x-app", {})', 'return moment.locales()'],
  ['the thresholds of moment', 'moment.relativeTimeThreshold("s", 5)',
    'return moment.relativeTimeThreshold("s") + " " + moment.relativeTimeThreshold("ss")'],
  ['the rounding of moment', 'moment.relativeTimeRounding(Math.floor)',
    'return moment.duration(89, "minutes").humanize() + moment.relativeTimeRounding()'],
  ['a table of a locale',
    'var data = moment.localeData(); data._months[0] = "planted"; data._relativeTime.s = "planted";'
    + 'data.months = null; data._longDateFormat.L = "[planted]"; data._eras[0].name = "planted"',
    'var then = moment.utc(0); return then.format("MMMM L NNNN") + moment.duration(1).humanize()'],
  ['the clock of moment', 'moment.now = function () { return 0; }',
    'return moment().year() > 2000'],
  ['the template settings of lodash',
    '_.templateSettings.interpolate = /{{([^}]+)}}/g; _.templateSettings.imports.x = 1',
    'return _.template("{{a}}<%= typeof x %>")({a: 1})'],
  ['template settings as a whole', '_.templateSettings = {}', 'return _.template("<%= 1 %>")()'],
  ['a mixin', '_.mixin({shout: function () { return "!"; }})',
    'return typeof _.shout + typeof _(1).shout'],
  ['a mixin over a function', '_.mixin({map: function () { return "!"; }})',
    'return _.map([1]) + "" + _([1]).map()'],
  ['a hooked function', 'var old = _.map; _.map = function () { return old([666]); }',
    'return _.map([1])'],
  ['a deleted function', 'delete _.map', 'return _.map([1]) + Object.keys(_).indexOf("map")'],
  ['a getter', 'Object.defineProperty(_, "map", {get: function () { return Array; }})',
    'return _.map([1])'],
  ['a getter that throws', 'Object.defineProperty(_, "map", {get: function () { throw 1; }})',
    'return _.map([1])'],
  ['onerror of Q', 'Q.onerror = function () {}; Q.longStackSupport = true',
    'return typeof Q.onerror + Q.longStackSupport'],
  ["a method of Q's promises", 'Q().constructor; Object.getPrototypeOf(Q()).then = null',
    'return typeof Q().then'],
  ['rejections in Q', 'Q.reject(new Error("mine"))', 'return Q.getUnhandledReasons().length'],
  ['a class of the toolkit', 'vumigo.App.extend = null; vumigo.states.ChoiceState = null',
    'return typeof vumigo.App.extend + typeof vumigo.states.ChoiceState'],
  ["a method of the toolkit's prototype", 'vumigo.App.prototype.planted = 1',
    'return vumigo.App.prototype.planted'],
  ['emit', 'events.EventEmitter.prototype.emit = function () { return "hooked"; }',
    'return new events.EventEmitter().emit("x")'],
  ['the maximum of listeners', 'events.defaultMaxListeners = 1; events.setMaxListeners(2)',
    'return events.defaultMaxListeners'],
  ["the library realm's Array.prototype",
    '_.map([]).constructor.prototype.push = 1; _.map([]).constructor.prototype.planted = 2',
    'return typeof _.map([]).push + typeof _.map([]).planted'],
  ["the library realm's Object.prototype",
    'vumigo.constructor.prototype.planted = 1; vumigo.constructor.prototype.toString = null',
    'return typeof vumigo.planted + typeof vumigo.toString'],
  ["the library realm's globals", '_.constructor("planted = 1; Array = 2")()',
    'return _.constructor("return typeof planted + typeof Array")()'],
  ["the library realm's JSON", '_.constructor("return JSON")().stringify = null',
    'return typeof _.constructor("return JSON")().stringify'],
  ['the text that was last searched', '_.constructor("return /secret/.exec(\'my secret\')")()',
    'return _.constructor("return RegExp.input + RegExp.$_")()'],
  ['the memory of small buffers', 'Buffer.from("my secret")',
    'return Buffer.from(Buffer.from("x").buffer).indexOf("secret")'],
  ['Buffer', 'Buffer.prototype.toString = function () { return "hooked"; }; Buffer.planted = 1',
    'return Buffer.from("a").toString() + Buffer.planted'],
  ['util', 'util.inspect.styles.string = "red"; util.format = null',
    'return util.inspect.styles.string + typeof util.format'],
  ['defaults of util.inspect', 'util.inspect.defaultOptions.depth = 0',
    'return util.inspect.defaultOptions.depth'],
  ['querystring', 'require("querystring").unescape = function () { return "hooked"; }',
    'return require("querystring").parse("a=%20").a'],
  ['URL', 'require("url").URL.prototype.toJSON = null',
    'return typeof require("url").URL.prototype.toJSON'],
  ['the constructor that a class of Node names',
    'require("url").Url.prototype.constructor = function Planted() {}',
    'return require("util").inspect(new (require("url").Url)()).slice(0, 3)'],
  ['crypto', 'require("crypto").Hash.prototype.update = null',
    'return typeof require("crypto").Hash.prototype.update'],
  ["Node's streams", `Object.getPrototypeOf(Object.getPrototypeOf(Object.getPrototypeOf(
     require("crypto").Hash.prototype))).push = null`,
    `return typeof Object.getPrototypeOf(Object.getPrototypeOf(Object.getPrototypeOf(
     require("crypto").Hash.prototype))).push`],
];

test('the next run does not find what was put on functions and classes', async (t) => {
  const sealed = ['_.map', '_.assign', '_.assign.toString', '_.prototype.chain',
    'moment.fn.format', 'Q.all', 'vumigo.utils', 'events.prototype.emit', 'Buffer',
    'Buffer.prototype', 'Buffer.from',
    'util.inspect.styles', 'util.types', 'require("crypto").Hash', 'require("path").win32',
    'require("crypto").Hash.prototype.update', 'require("url").URL.prototype', 'lib.Uint8Array',
    'require("url").URLSearchParams', 'lib.Intl', 'lib.Intl.NumberFormat.prototype',
    'lib.WeakMap.prototype', 'require("querystring").escape', 'require("assert").equal'];
  const lib = 'var lib = _.constructor("return globalThis")();';
  const [, said] = await talk(t, [
    lib + sealed.map((what) => `${what}.planted = 1;`).join(''),
    `${lib} return [${sealed.map((what) => `${what}.planted`)}].join()`]);
  assert.equal(said, sealed.map(() => '').join());
});

test('a class that inherits a sealed one replaces its methods by assignment', async (t) => {
  const names = ['require("url").Url', 'require("url").URL', 'require("assert").AssertionError',
    'require("string_decoder").StringDecoder', 'require("crypto").Hash', 'Buffer', 'events'];
  const [said] = await talk(t, [`return [${names}].map(function (Base) {
    function Own() {}
    require("util").inherits(Own, Base);
    Own.prototype.toString = Own.prototype.write = function () { return "own"; };
    Own.prototype.constructor = Own;
    Object.setPrototypeOf(Own, Base);   // what TypeScript does
    Own.canParse = 'own';
    var own = new Own();
    return own + own.write() + (own.constructor === Own) + Own.canParse;
  }).join()`]);
  assert.equal(said, names.map(() => 'ownowntrueown').join());
});

test("what is sealed shows, enumerates and is written as JSON as Node's own", async (t) => {
  const made = ['url.parse("http://a/b?c")', 'new url.URL("http://a/b")', 'new url.Url()',
    'new (require("string_decoder").StringDecoder)("utf8")', 'Buffer.from("ab")',
    'Object.create(url.Url.prototype)', 'new url.URLSearchParams("a=1")'];
  const code = `var url = require("url"); return [${made}].map(function (each) {
    var names = [];
    for (var name in each) names.push(name);
    return util.inspect(each) + JSON.stringify(each) + names;
  }).join()`;
  const own = new Function('require', 'util', 'Buffer', code)(require, util, Buffer);
  assert.deepEqual(await talk(t, [code]), [own]);
});

// Those that are compared in turn, or when the process rests, are found later: a run with a change
// of something in core has all the others compared too.
const SURELY = '; _.planted = 1';

const LATER = same.slice(0, 18);

for (const [how, cases, also, options] of [
  ['as another left it', same, SURELY, {}],
  ['if nothing else changed', LATER, '', {}],
  ['in a process that had no app at first', LATER, SURELY, { spare: SPARE }],
]) {
  test(`a run does not find, ${how}`, async (t) => {
    // One process: what is put back wrongly shows in its own case, or in a later one.
    const harness = await start(t, APP, { modules: MODULES, ...options });
    for (const [what, code, look] of cases) {
      await t.test(what, async () => {
        const [before, , after] = await talk(t, [look, code + also, look], { harness });
        assert.equal(after, before);
      });
    }
  });
}

test('what was defined so as not to be seen is found within some hundred runs', async (t) => {
  const plant = `var map = _.map;
    Object.defineProperty(_, 'map', {get: function () { return map; }, enumerable: true});
    Object.defineProperty(vumigo, 'secret', {value: 1, configurable: true});
    Object.defineProperty(Object.getPrototypeOf(Q()), 'secret', {value: 1, configurable: true});
    util.inherits.secret = 1`;
  const look = `return !!Object.getOwnPropertyDescriptor(_, 'map').get + ' ' + vumigo.secret
    + Q().secret + util.inherits.secret`;
  const said = await talk(t, [plant, ...Array(600).fill(look)]);
  assert.equal(said.at(-1), 'false undefinedundefinedundefined');
});

test('what no run compares is put back when the process rests', () => {
  const names = [...MODULES, 'jed'];
  const library = createLibrary({ modulesDir: '', console() {} });
  library.preload(names);
  library.watchAll(names, ['Buffer']);
  const { vumigo_v01: v01, vumigo_v02: v02, lodash, buffer, url } =
    Object.fromEntries(names.map((name) => [name, library.load(name)]));
  const intl = lodash.constructor('return Intl')();
  const machine = v02.interaction_machine.InteractionMachine;
  const most = buffer.INSPECT_MAX_BYTES;
  const planted = [v01.states.EndState.prototype, v02.http.api.HttpApi.prototype, machine.prototype,
    intl.DateTimeFormat.prototype, url.Url.prototype];
  for (const object of planted) Reflect.set(object, 'planted', 1);   // some are sealed
  buffer.INSPECT_MAX_BYTES = 1;
  assert.equal(library.settle(true), '');
  assert.deepEqual(planted.map((object) => object.planted), planted.map(() => undefined));
  assert.equal(buffer.INSPECT_MAX_BYTES, most);
  assert.equal(typeof v01.states.EndState.prototype.constructor, 'function');
});

test('memory that one run has freed is not given to another', async (t) => {
  const flags = { execArgv: ['--zero-fill-buffers'] };   // supervisor/jail/argv.py
  const fill = 'for (var i = 0; i < 40; i++) Buffer.alloc(100000, "secret")';
  const look = `for (var i = 0, n = 0; i < 100; i++) {
    if (Buffer.allocUnsafeSlow(100000).includes('secret')) n++; } return n`;
  assert.deepEqual((await talk(t, [fill, look], flags))[1], '0');
});

test('what cannot be put back retires the process, and one warning says what', async (t) => {
  const codes = [
    ['Object.freeze(_)', 'lodash'],
    ['Object.defineProperty(Q, "all", {value: 1, configurable: false})', 'q.all'],
    ['Object.setPrototypeOf(moment, null); Object.preventExtensions(moment)', 'moment'],
    ['moment.suppressDeprecationWarnings = true; moment.defineLocale("en", {})', 'en'],
  ];
  for (const [code, name] of codes) {
    const [first, second] = await talk(t, [code + SURELY, 'return 1']);
    assert.match(first.retire, new RegExp(`\\b${name}\\b.*cannot be put back`));
    assert.match(first.warned, /takes no more messages: /);
    assert.equal(second.warned, '');   // the supervisor would not have sent that one
  }
});

test('an app that changes nothing, or only what it may, is not retired', async (t) => {
  const use = `
    names.forEach(function (each) { Object.keys(each[1]).forEach(function (k) { each[1][k]; }); });
    vumigo.App.prototype.mine = 1; _.mixin({mine: function () {}}); moment.fn.mine = 1;
    require('crypto').createHash('sha1').update('a').digest('hex');
    require('buffer').Blob; new (require('url').URL)('http://a/'); util.inspect(new Error('x'));
    function Own() { events.EventEmitter.call(this); } util.inherits(Own, events.EventEmitter);
    new Own().on('x', function () {}).emit('x'); require('string_decoder').StringDecoder('utf8');
    _.template('<%= a %>')({a: 1}); _.memoize(String)(1); moment().locale('fr').format('LLLL');
    Q.delay(1); return Q.allSettled([Q(1)]).constructor && 1`;
  assert.deepEqual(await talk(t, Array(40).fill(use)), Array(40).fill('1'));
});

test('a module that a run loads is as new in the next, if it changed others', async (t) => {
  const modules_dir = packages(t, {
    base: 'exports.value = 1;',
    plugin: "require('base').value = 2; exports.loads = 0;",
    quiet: 'exports.count = 0;',
  });
  const app = `var base = require('base');
    ${handler(`
      var name = command.msg.load, found = name && require(name);
      if (name === 'quiet') found.again = (found.again || 0) + 1;
      api.log_info(base.value + ' ' + (found && (found.again || found.loads)), api.done);`)}`;
  const modules = ['base', 'plugin', 'quiet'];
  const harness = await start(t, app, { modules, modules_dir });
  const said = [];
  for (const load of ['', 'plugin', '', 'plugin', 'quiet', 'quiet', '']) {
    harness.deliver('r', { load });
    const log = await harness.next();
    said.push(log.msg);
    harness.reply(log);
    assert.equal((await harness.next()).cmd, 'js.done');
  }
  assert.deepEqual(said, ['1 ', '2 0', '1 ', '2 0', '1 1', '1 1', '1 ']);
});

test("an app's own copies of moment and Q are found by what they are", async (t) => {
  const bundled = path.join(__dirname, '..', 'node_modules');
  const modules_dir = packages(t, { other: '' });
  for (const [own, name] of [['dates', 'moment'], ['promises', 'q']]) {
    fs.cpSync(path.join(bundled, name), path.join(modules_dir, own), { recursive: true });
  }
  const app = `var dates = require('dates'), promises = require('promises');
    ${handler(`
      api.log_info(dates.utc(0).format('dddd') + promises.getUnhandledReasons().length, api.done);
      dates.locale('fr'); promises.reject(new Error('x'));`)}`;
  const harness = await start(t, app, { modules: ['dates', 'promises'], modules_dir });
  for (const run of ['r1', 'r2', 'r3']) {
    harness.deliver(run);
    const log = await harness.next();
    assert.equal(log.msg, 'Thursday0');
    harness.reply(log);
    assert.deepEqual(Object.keys(await harness.next()), ['cmd', 'cmd_id', 'reply', 'run']);
  }
});

test('what fails after api.done() retires the process, and no other run fails', async (t) => {
  const late = `var E = Error; require('crypto').pbkdf2('a', 'b', 200000, 20, 'sha1', function () {
    throw new E('late'); });`;
  const wait = `var end = Date.now() + 50; while (Date.now() < end) {} return 2`;
  const said = await talk(t, [`${late} return 1`, ...Array(50).fill(wait)]);
  const retired = said.find((each) => each.retire);
  assert.match(retired.retire, /ran on after api.done\(\) failed: Error: late/);
});

test("a timer of a module's own does not take a run's replies away", async (t) => {
  const modules_dir = packages(t, {
    ticking: 'exports.ticks = 0; setInterval(function () { exports.ticks++; }, 1);',
  });
  const app = `var ticking = require('ticking');
    ${handler("api.request('kv.get', {}, function (r) { api.log_info(r.value, api.done); });")}`;
  const harness = await start(t, app, { modules: ['ticking'], modules_dir });
  harness.deliver('r1');
  const get = await harness.next();
  await new Promise((resolve) => setTimeout(resolve, 50));
  harness.reply(get, { value: 'of r1' });
  assert.equal((await harness.next()).msg, 'of r1');
});

test('a heap that stays full retires the process in time', async (t) => {
  const modules_dir = packages(t, { hoard: `
    var kept = [];
    exports.add = function () {
      for (var i = 0; i < 5000; i++) kept.push({i: i, text: 'x' + i});
    };`,
  });
  const harness = await start(t, handler("require('hoard').add(); api.done();"), {
    modules: ['hoard'], modules_dir, execArgv: ['--max-old-space-size=64'],
  });
  for (let run = 1; run <= 500; run++) {
    harness.deliver(`r${run}`);
    let done = await harness.next();
    if (done.cmd === 'js.console') done = await harness.next();
    assert.equal(done?.cmd, 'js.done', `run ${run}`);
    if (done.retire) { assert.match(done.retire, /fills the heap/); return; }
  }
  assert.fail('never retired');
});

test('several runs: a throw in Q fails its run, and no task of another is lost', async (t) => {
  const harness = await start(t, handler(`
    var Q = require('q'), setTimeout = require('timers').setTimeout, who = command.msg.who;
    api.request('kv.get', {key: who}, function () {
      if (who === 'a') {
        Q.reject(new Error('first of a')).done();
        Q.reject(new Error('second of a')).done();
        Q.nextTick(function () {});
      }
      setTimeout(function () {
        Q(who).then(function () { throw new Error('of ' + who); }).done();
      }, 20);
    });`), { modules: ['q', 'timers'], messages_in_flight: 2 });
  const next = async () => {
    for (;;) {
      const line = await harness.next();
      if (line.cmd !== 'js.turn') return line;
    }
  };
  for (const who of ['a', 'b']) harness.deliver(`r-${who}`, { who });
  for (const line of [await next(), await next()]) harness.reply(line);
  const failed = [await next(), await next()].map((line) => [line.cmd, line.run, line.message]);
  assert.deepEqual(failed.sort(), [
    ['js.error', 'r-a', 'Error: first of a'], ['js.error', 'r-b', 'Error: of b'],
  ]);
});

test("several runs: what Node calls for one is its own, whichever is active", async (t) => {
  const harness = await start(t, handler(`
    var crypto = require('crypto'), who = command.msg.who;
    if (who === 'a') {
      crypto.pbkdf2('a', 'b', 100000, 20, 'sha1', function () { throw new Error('of a'); });
    }
    api.request('kv.get', {key: who}, function () {});`),
  { modules: ['crypto'], messages_in_flight: 2 });
  for (const who of ['a', 'b']) harness.deliver(`r-${who}`, { who });
  for (;;) {
    const line = await harness.next();
    if (line.cmd !== 'js.error') continue;
    assert.deepEqual([line.run, line.message], ['r-a', 'Error: of a']);
    return;
  }
});
