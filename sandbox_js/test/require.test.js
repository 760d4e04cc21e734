'use strict';
// What require() gives an app, and what it says if it gives null.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { handler, start } = require('./start');

test('a module that an app may not have is null', async (t) => {
  const harness = await start(t, handler(`
    var dummy = typeof require('vumigo_v01').dummy_api;
    api.log_info(String(require('fs')) + String(require('./x')) + dummy); api.done();`),
  { modules: ['vumigo_v01'] });
  harness.deliver('r1');
  for (const name of ['fs', './x']) assert((await harness.next()).msg.includes(`'${name}'`));
  assert.equal((await harness.next()).msg, 'nullnullobject');
});

test('a package finds out where it is, and its output is a line in the log', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'jsbox-test-'));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  const modules = path.join(folder, 'node_modules');
  fs.mkdirSync(path.join(modules, 'curious'), { recursive: true });
  fs.writeFileSync(path.join(modules, 'curious', 'mark.json'), '\ufeff"mark"');
  fs.writeFileSync(path.join(modules, 'curious', 'index.js'), `
    var tty = require('tty'), os = require('os'), Agent = require('http').Agent;
    class Mine extends Agent {}
    process.stderr.write('warned');
    module.exports = [
      tty.isatty(process.stderr.fd), os.platform(), typeof Mine, String(process),
      typeof require('stream').Transform, require('./mark.json'),
    ].join();
  `);
  const harness = await start(t, handler("api.log_info(require('curious')); api.done();"),
    { modules: ['curious'], modules_dir: modules });
  harness.deliver('r1');
  assert.deepEqual(await harness.next(), {
    cmd: 'js.console', cmd_id: 'h', reply: false, level: 'warning', msg: 'warned', run: 'r1',
  });
  assert.equal((await harness.next()).msg, 'false,linux,function,[object process],function,mark');
});

test('a require that gives null is logged once a process and name', async (t) => {
  const harness = await start(t, handler(`
    var found = [require('left-pad'), require('left-pad'), require('./y'), require('fs')];
    require('node:left-pad');
    api.log_info(JSON.stringify(found), function () { api.done(); });`));
  const said = [];
  for (const run of ['r1', 'r2']) {
    harness.deliver(run);
    for (;;) {
      const line = await harness.next();
      said.push([run, line.level, line.msg ?? line.cmd]);
      if (line.cmd === 'js.done') break;
      if (line.reply === false && line.cmd.startsWith('log.')) harness.reply(line);
    }
  }
  const gave = (name) => `require('${name}') gave null: `;
  assert.deepEqual(said, [
    ['r1', 'warning', gave('left-pad') + 'add it to modules, npm install it'],
    ['r1', 'warning', gave('./y') + 'an app is one file; put that file into it'],
    ['r1', 'warning', gave('fs') + 'add it to modules, if it is one that apps may have'],
    ['r1', 'warning', gave('node:left-pad') + 'add it to modules, npm install it'],
    ['r1', undefined, '[null,null,null,null]'],
    ['r1', undefined, 'js.done'],
    ['r2', undefined, '[null,null,null,null]'],
    ['r2', undefined, 'js.done'],
  ]);
});

test('a module of Node has its name with and without node:', async (t) => {
  const harness = await start(t, handler(`
    api.log_info(String([require('node:crypto') === require('crypto'), require('node:url')]));`),
  { modules: ['crypto'] });
  harness.deliver('r1');
  assert.match((await harness.next()).msg, /require\('node:url'\) gave null/);
  assert.equal((await harness.next()).msg, 'true,');
});
