'use strict';
// Run in place of the harness, through exactly the launcher and the flags of a sandbox: tries what
// must be impossible there and reports each attempt. One JSON line on stdin says where the traps
// are; one on stdout has the results: "ALLOWED", or the error.

const fs = require('node:fs');
const net = require('node:net');
const { spawnSync } = require('node:child_process');
const { createSocket } = require('node:dgram');

const WAIT = 3000;   // ms for all sockets together
const traps = JSON.parse(fs.readFileSync(0, 'utf8'));
const found = {};

function attempt(name, call) {
  try {
    const value = call();
    found[name] = value === undefined ? 'ALLOWED' : value;
  } catch (error) {
    found[name] = error.code || error.name || String(error);
  }
}

function recurse() { return recurse() + 1; }

attempt('read_file', () => { fs.readFileSync(traps.file); });
attempt('read_etc', () => { fs.readFileSync(traps.etc); });
attempt('list_folder', () => { fs.readdirSync(traps.folder); });
attempt('write_file', () => { fs.writeFileSync(`${traps.folder}/written`, 'x'); });
attempt('write_tmp', () => {
  const file = `/tmp/jsbox-probe-${process.pid}-${Math.random()}`;
  fs.writeFileSync(file, 'x', { flag: 'wx' });
  fs.unlinkSync(file);
});
attempt('parent_environment', () => { fs.readFileSync(`/proc/${traps.parent}/environ`); });
attempt('parent_memory', () => { fs.closeSync(fs.openSync(`/proc/${traps.parent}/mem`, 'r')); });
attempt('spawn', () => {
  // A bare root has no /bin/true, and Node.js may lie where the app's user does not get to.
  const errors = [];
  for (const program of ['/proc/self/exe', process.execPath, '/bin/true']) {
    const { error } = spawnSync(program, ['--version']);
    if (!error) return;
    errors.push(error);
  }
  throw errors[0];
});
attempt('signal_parent', () => { process.kill(traps.parent, 0); });
attempt('signal_all', () => { process.kill(-1, 0); });
attempt('become_root', () => { process.setuid(0); });
attempt('native_writer', () => {
  const { DatabaseSync } = require('node:sqlite');
  new DatabaseSync(`${traps.folder}/written.db`).exec('create table t (a)');
});
attempt('memory', () => { new ArrayBuffer(traps.bytes).slice(0); });
attempt('recursion', recurse);
attempt('environment', () => Object.keys(process.env).sort().join(' '));
attempt('user', () => process.getuid());
attempt('open_files', () => {
  const open = [];
  try {
    for (;;) open.push(fs.openSync(__filename, 'r'));
  } catch {
    for (const fd of open) fs.closeSync(fd);
    return open.length;
  }
});

let waiting = 4;
function settle(name, what) {
  if (name in found) return;
  found[name] = what;
  if (--waiting === 0) finish();
}
function finish() {
  fs.writeSync(1, JSON.stringify(found) + '\n');
  process.exit(0);
}
function connect(name, where) {
  try {
    const socket = net.connect(where);
    socket.on('connect', () => { settle(name, 'ALLOWED'); socket.destroy(); });
    socket.on('error', (error) => settle(name, error.code || error.name));
  } catch (error) {
    settle(name, error.code || error.name);
  }
}
connect('tcp', { host: '127.0.0.1', port: traps.tcp });
connect('abstract_socket', { path: `\0${traps.abstract}` });
connect('path_socket', { path: traps.path });
try {
  const socket = createSocket('udp4');
  socket.on('error', (error) => settle('udp', error.code || error.name));
  socket.send('probe', traps.udp, '127.0.0.1', (error) => {
    settle('udp', error ? error.code || error.name : 'SENT');
    socket.close();
  });
} catch (error) {
  settle('udp', error.code || error.name);
}
setTimeout(() => {
  for (const name of ['tcp', 'abstract_socket', 'path_socket', 'udp']) settle(name, 'no answer');
}, WAIT).unref();
