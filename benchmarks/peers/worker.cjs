'use strict';
// A worker (an isolate in a thread of its own) for each message: it loads the toolkit and the app,
// handles the message and ends. For Node.js and Deno.
//
//   worker.cjs PLAIN_NODE APP MODULES_DIR CONFIG SECONDS
//
// Prints one JSON line: messages, seconds, CPU seconds.

const { Worker } = require('node:worker_threads');

const [, , program, app, modulesDir, config, seconds] = process.argv;
const began = performance.now(), usage = process.cpuUsage();

function handleOne() {
  return new Promise((resolve, reject) => {
    const argv = [app, modulesDir, config, '60', 'once'];
    const worker = new Worker(program, { argv, stdout: true });
    worker.stdout.resume();
    worker.on('error', reject);
    worker.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`exit ${code}`))));
  });
}

async function main() {
  let messages = 0;
  do {
    await handleOne();
    messages += 1;
  } while (performance.now() - began < Number(seconds) * 1000);
  const cpu = process.cpuUsage(usage), took = (performance.now() - began) / 1000;
  console.log(JSON.stringify({ messages, seconds: took, cpu: (cpu.user + cpu.system) / 1e6 }));
}
main();
