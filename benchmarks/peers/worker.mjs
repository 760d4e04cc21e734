// The survey app in workerd, Cloudflare's runtime: workerd.py bundles the toolkit and the app
// as app.js. A request has {from, count, kv, replies, fresh}: it handles `count`
// messages, beginning with message `from`, and returns the store; with `fresh`, each in an isolate
// of its own, which knows nothing of the others.

import app from './app.js';

const STEPS = [[null, 'new'], ['1', 'resume'], ['34', 'resume'], ['1', 'resume']];
const FLAGS = ['nodejs_compat', 'allow_insecure_inefficient_logged_eval'];   // lodash's templates

function resourcesOf(kv) {
  return {
    'config.get': ({ key }) => ({ value: key === 'config' ? app.config : null }),
    'kv.get': ({ key }) => ({ value: kv[key] === undefined ? null : JSON.parse(kv[key]) }),
    'kv.set': ({ key, value }) => { kv[key] = JSON.stringify(value); return {}; },
    'kv.incr': ({ key, amount }) => {
      const value = Number(kv[key] ?? 0) + (amount ?? 1);
      kv[key] = String(value);
      return { value };
    },
  };
}

// As in plain_node.js, without a context of its own: there is none in workerd.
function run(msg, kv) {
  const resources = resourcesOf(kv), queue = [], replies = [];
  let isFinishing = false, lastId = 0, isDue = false, over = null;
  const ended = new Promise((resolve) => { over = resolve; });
  function answer() {
    isDue = false;
    for (const [name, fields, callback] of queue.splice(0)) {
      const reply = { success: true, cmd: name, cmd_id: fields.cmd_id, reply: true };
      Object.assign(reply, resources[name]?.(fields));
      if (name === 'outbound.reply_to') replies.push(fields.content);
      callback?.call(api, reply);
    }
    if (isFinishing && queue.length === 0) over(replies);
  }
  function later() { if (!isDue) { isDue = true; setImmediate(answer); } }
  const api = {
    request(name, fields, callback) {
      fields.cmd_id = String(++lastId);
      later();
      queue.push([name, fields, callback]);
    },
    log_info(text, callback) { api.request('log.info', { msg: text }, callback); },
    done() { isFinishing = true; later(); },
    on_unknown_command() {},
  };
  app.start(api);
  api.on_inbound_message({ cmd: 'inbound-message', msg });
  return ended;
}

async function handle(number, kv, expected) {
  const [content, session_event] = STEPS[number % STEPS.length];
  const from_addr = `+2783${Math.floor(number / STEPS.length) % 500}`;
  const [reply] = await run({
    message_id: String(number), from_addr, to_addr: '8181', content, session_event,
    transport_type: 'ussd', timestamp: '2020-01-01 00:00:00.000000',
  }, kv);
  if (reply !== expected[number % STEPS.length]) throw new Error(`it replied ${reply}`);
}

async function handleFresh(number, kv, replies, { LOADER, MAIN, APP }) {
  const worker = LOADER.get(`m${number}`, () => ({
    compatibilityDate: '2026-01-01', compatibilityFlags: FLAGS, allowExperimental: true,
    mainModule: 'main.js', modules: { 'main.js': MAIN, 'app.js': { cjs: APP } },
    globalOutbound: null,
  }));
  const body = JSON.stringify({ from: number, count: 1, kv, replies });
  const answer = await worker.getEntrypoint().fetch('http://app/', { method: 'POST', body });
  return answer.json();
}

export default {
  async fetch(request, env) {
    let { from, count, kv, replies, fresh } = await request.json();
    for (let number = from; number < from + count; number++) {
      if (fresh) kv = await handleFresh(number, kv, replies, env);
      else await handle(number, kv, replies);
    }
    return Response.json(kv);
  },
};
