// The console: a client of the admin port, like the commands. Whatever comes from apps and users is
// put on the page as text, never as HTML.

const EVERY = 2000;        // ms between two refreshes
const LINES = 1000;        // lines of a log that are kept on the page
const LEVELS = { DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50 };
const $ = (query, from = document) => from.querySelector(query);

let app = null;            // the name of the app that is shown
let tab = 'log';
let following = null;      // AbortController of the live log
let info = { gateway: '', version: '' };
let apps = [];

async function ask(path, options = {}) {
  const token = sessionStorage.getItem('token');
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) { await askToken(); return ask(path, options); }
  return response;
}

let asking = null;
function askToken() {
  asking ??= new Promise((resolve) => {
    const dialog = $('#ask');
    dialog.onclose = () => {
      sessionStorage.setItem('token', $('#token').value.trim());
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

async function get(path) {
  const response = await ask(path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error || response.statusText);
  return body;
}

function cell(value, kind = '') {
  const td = document.createElement('td');
  if (value instanceof Node) td.append(value); else td.textContent = value ?? '';
  td.className = kind;
  return td;
}

function fill(body, rows) {
  body.replaceChildren(...rows.map(({ cells, on, chosen }) => {
    const tr = document.createElement('tr');
    tr.append(...cells);
    if (on) {
      tr.tabIndex = 0;
      tr.onclick = on;
      tr.onkeydown = (event) => { if (event.key === 'Enter') on(); };
      tr.classList.toggle('on', Boolean(chosen));
    }
    return tr;
  }));
}

const size = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

async function showHealth() {
  const response = await fetch('/readyz');
  const text = (await response.text()).trim();
  const health = $('#health');
  health.textContent = text === 'ok' ? 'ready' : text;
  health.className = text === 'ok' ? 'good' : response.ok ? 'warn' : 'bad';
}

async function showApps() {
  apps = (await get('/v1/apps')).apps;
  fill($('#apps tbody'), apps.map((one) => {
    const runs = one.state === 'running', { busy, idle, booting } = one.processes;
    const reason = one.last && !runs ? `: ${one.last.split('\n')[0]}` : '';
    const connections = Object.entries(one.connections);
    return {
      on: () => choose(one.name), chosen: one.name === app,
      cells: [
        cell(one.name), cell(one.account), cell(one.state + reason, runs ? 'good' : 'bad'),
        cell(one.queue, one.queue ? 'n warn' : 'n'),
        cell(busy, 'n'), cell(idle, 'n'), cell(booting, 'n'),
        cell(connections.map(([channel, count]) => `${channel} ${count}`).join(', ')),
      ],
    };
  }));
  const accounts = [...new Set(apps.map((one) => one.account))], select = $('#contacts select');
  if (select.options.length !== accounts.length) select.replaceChildren(...options(accounts));
}

const options = (names) => names.map((name) => new Option(name, name));

async function showSandboxes() {
  const { sandboxes, spares } = await get('/v1/sandboxes');
  fill($('#sandboxes tbody'), [...sandboxes, ...spares].map((one) => {
    const kill = document.createElement('button');
    kill.textContent = 'End';
    kill.onclick = async () => {
      await ask(`/v1/sandboxes/${one.pid}/kill`, { method: 'POST' });
      showSandboxes();
    };
    return { cells: [
      cell(one.app || '(spare)', one.app ? '' : 'dim'), cell(one.pid, 'n'), cell(one.state),
      cell(size(one.rss), 'n'), cell(`${one.cpu.toFixed(2)} s`, 'n'),
      cell(one.runs, 'n'), cell(`${Math.round(one.age)} s`, 'n'), cell(one.app ? kill : ''),
    ] };
  }));
}

async function showChannels() {
  const { channels } = await get('/v1/channels');
  $('#channels').hidden = !channels.length;
  fill($('#channels tbody'), channels.map((one) => {
    const colour = one.problem ? 'bad' : one.state === 'up' ? 'good' : 'dim';
    return { cells: [
      cell(one.name), cell(one.type), cell(one.app),
      cell(one.problem ? `${one.state}: ${one.problem}` : one.state, colour),
      cell(one.connections, 'n'), cell(one.unacked, 'n'),
    ] };
  }));
}

async function showDead() {
  const { deadletters, cursor } = await get('/v1/deadletters?limit=50');
  $('#dead').hidden = !deadletters.length;
  $('#dead h2').textContent = `${deadletters.length}${cursor ? ' and more' : ''} dead letters`;
  fill($('#dead tbody'), deadletters.map((one) => {
    const act = (text, path, method) => {
      const button = document.createElement('button');
      button.textContent = text;
      button.onclick = async () => {
        const url = `/v1/deadletters/${encodeURIComponent(one.id)}${path}`;
        const answer = await ask(url, { method });
        if (!answer.ok) button.title = button.textContent = (await answer.json()).error;
        else showDead();
      };
      return button;
    };
    return { cells: [
      cell(one.time), cell(one.app), cell(one.message_id || one.kind || '(unreadable)'),
      cell(one.attempts, 'n'), cell(one.reason),
      cell(one.can_retry ? act('Retry', '/retry', 'POST') : ''), cell(act('Drop', '', 'DELETE')),
    ] };
  }));
}

function choose(name) {
  app = name;
  $('#app').hidden = false;
  $('#app h2').textContent = name;
  const known = apps.find((one) => one.name === name);
  $('#line select').replaceChildren(...options([...new Set(Object.values(known.endpoints))]));
  $('#trace').replaceChildren();
  for (const row of $('#apps tbody').rows) {
    row.classList.toggle('on', row.cells[0].textContent === name);
  }
  follow();
  show(tab);
}

function show(name) {
  tab = name;
  for (const button of document.querySelectorAll('nav button')) {
    button.classList.toggle('on', button.dataset.tab === name);
  }
  for (const part of document.querySelectorAll('.tab')) part.hidden = part.id !== name;
  if (name === 'runs') showRuns();
  if (name === 'limits') showLimits('');
}

async function follow() {
  following?.abort();
  const mine = following = new AbortController(), list = $('#log ol');
  list.replaceChildren();
  $('#log code').textContent = `jsbox logs ${app} -f`;
  try {
    const path = `/v1/apps/${encodeURIComponent(app)}/logs?follow=1&limit=200`;
    const response = await ask(path, { signal: mine.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ''; ;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const line of lines) addLine(list, JSON.parse(line));
    }
  } catch (error) {
    if (mine.signal.aborted) return;
  }
  // The server was away.
  if (following === mine) setTimeout(() => { if (following === mine) follow(); }, EVERY);
}

function addLine(list, entry) {
  const line = document.createElement('li');
  line.textContent = `${entry.time} ${entry.level.padEnd(8)} ${entry.message}`;
  line.dataset.level = LEVELS[entry.level] ?? 50;
  if (line.dataset.level >= LEVELS.ERROR) line.className = 'bad';
  else if (line.dataset.level >= LEVELS.WARNING) line.className = 'warn';
  sift(line);
  const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 30;
  const stays = !isAtEnd || $('#pause').dataset.on;
  list.append(line);
  while (list.children.length > LINES) list.firstChild.remove();
  if (!stays) list.scrollTop = list.scrollHeight;
}

function sift(line) {
  const isLow = Number(line.dataset.level) < Number($('#level').value);
  line.hidden = isLow || !line.textContent.includes($('#find').value);
}

async function showRuns() {
  const notable = $('#notable').checked;
  $('#runs code').textContent = `jsbox trace --app ${app}${notable ? ' --notable' : ''}`;
  const query = `app=${encodeURIComponent(app)}&limit=100${notable ? '&notable=1' : ''}`;
  const { traces } = await get(`/v1/traces?${query}`);
  fill($('#runs tbody'), traces.map((one) => ({
    on: () => showTrace(one.message),
    cells: [
      cell(one.began.slice(11, 23)), cell(one.message),
      cell(one.outcome, one.outcome === 'ok' ? 'good' : 'bad'),
      ...['total', 'queue', 'boot'].map((part) => cell(one.ms[part].toFixed(1), 'n')),
      cell(one.commands, 'n'),
    ],
  })));
}

async function showTrace(message) {
  const one = await get(`/v1/traces/${encodeURIComponent(message)}`);
  const { queue, boot, run } = one.ms, start = queue + boot, total = Math.max(one.ms.total, 0.001);
  const noteOf = ({ note, outcome }) => [note, outcome === 'ok' ? '' : outcome];
  const rows = [
    ['queue', 0, queue, ''], ['boot', queue, boot, ''], ['run', start, run, one.detail],
    ...one.steps.map((step) => [
      step.name, start + step.at_ms, step.ms, noteOf(step).filter(Boolean).join('  '),
    ]),
  ];
  const head = document.createElement('p');
  const leftOut = one.left_out ? `  (${one.left_out} further commands)` : '';
  head.textContent = `jsbox trace ${message}${leftOut}`;
  $('#trace').replaceChildren(head, ...rows.map(([name, at, ms, note]) => {
    const step = document.createElement('div'), bar = span('');
    const length = document.createElement('i');
    step.className = 'step';
    bar.className = 'bar';
    length.style.left = `${Math.min(at / total * 100, 99)}%`;
    length.style.width = `${Math.min((ms ?? 0) / total * 100, 100)}%`;
    bar.append(length);
    const took = ms === null ? 'no reply' : `${ms.toFixed(1)} ms`;
    step.append(span(at.toFixed(1)), span(took), bar, span(`${name} ${note}`));
    return step;
  }));
}

const span = (text) => Object.assign(document.createElement('span'), { textContent: text });

function limitText(name, value) {
  if (['heap', 'memory', 'stack', 'line', 'output'].includes(name)) {
    return value >= 2 ** 20 ? size(value) : `${(value / 1024).toFixed(1)} KiB`;
  }
  if (['wall', 'cpu', 'boot', 'command'].includes(name)) {
    return value >= 1 ? `${Number(value.toFixed(2))} s` : `${(value * 1000).toFixed(1)} ms`;
  }
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

async function showLimits(what) {
  const limits = what.trim().split(/\s+/).filter(Boolean);
  const asked = limits.map((text) => `what_if=${encodeURIComponent(text)}`).join('&');
  const output = $('#limits output');
  let found;
  try {
    found = await get(`/v1/apps/${encodeURIComponent(app)}/limits?${asked}`);
  } catch (error) {
    output.textContent = error.message;
    return;
  }
  output.textContent = found.what_if ? whatIfText(found.what_if) : '';
  fill($('#limits tbody'), found.limits.map(({ name, value, seen }) => {
    const used = seen ? seen.most / value : 0;
    const numbers = ['p50', 'p99', 'most'].map((key) => (seen ? limitText(name, seen[key]) : ''));
    return { cells: [
      cell(name), cell(limitText(name, value), 'n'), ...numbers.map((text) => cell(text, 'n')),
      cell(seen ? `${(used * 100).toFixed(0)}%` : '', used > 0.8 ? 'n warn' : 'n'),
    ] };
  }));
}

function whatIfText({ limits, runs }) {
  const each = Object.entries(limits);
  return [
    ...each.map(([name, one]) => `${name}: ${one.over} of ${one.of} used more`),
    `together ${runs.over} of ${runs.of} runs`,
  ].join('; ');
}

// The phone: a client of the gateway that takes nothing but replies to what it sends.
const phone = { socket: null, inSession: false, key: '' };

function heard(text, note = '', mine = false) {
  const item = document.createElement('li');
  item.textContent = text;
  if (note) item.append(Object.assign(document.createElement('small'), { textContent: note }));
  item.className = mine ? 'mine' : '';
  $('#phone ol').append(item);
  item.scrollIntoView({ block: 'nearest' });
}

function connect() {
  const { channel, number, token } = Object.fromEntries(new FormData($('#line')));
  const key = `${channel} ${number} ${token}`;
  if (phone.socket?.readyState === WebSocket.OPEN && phone.key === key) return Promise.resolve();
  phone.socket?.close();
  phone.key = key;
  return new Promise((resolve, reject) => {
    const url = new URL(info.gateway);
    if (['0.0.0.0', '[::]'].includes(url.hostname)) url.hostname = location.hostname;
    const socket = phone.socket = new WebSocket(url, ['jsbox.v1']);
    const hello = { type: 'hello', channel, window: 16, outcomes: true, only_own: true };
    if (token) hello.token = token;
    socket.onopen = () => socket.send(JSON.stringify(hello));
    const problem = `the gateway at ${url} cannot be reached from this page`;
    socket.onerror = () => reject(new Error(problem));
    socket.onclose = () => { phone.inSession = false; };
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      const { type } = frame;
      if (type === 'welcome') {
        resolve();
      } else if (type === 'error') {
        heard('', `${frame.code}: ${frame.detail}`);
        reject(new Error(frame.detail));
      } else if (type === 'rejected') {
        heard('', `rejected: ${frame.code}: ${frame.detail}`);
      } else if (type === 'outcome' && frame.outcome !== 'ok') {
        heard('', `the run ended as ${frame.outcome}`);
      } else if (type === 'outbound') {
        socket.send(JSON.stringify({ type: 'ack', delivery: frame.delivery }));
        const closed = frame.msg.session_event === 'close';
        if (closed) phone.inSession = false;
        const content = frame.msg.content ?? '';
        heard(content, `${content.length} characters${closed ? ', session closed' : ''}`);
      }
    };
  });
}

async function say(content, event) {
  try { await connect(); } catch (error) { heard('', error.message); return; }
  const { number, dials } = Object.fromEntries(new FormData($('#line')));
  const id = crypto.randomUUID().replaceAll('-', '');
  phone.inSession = event !== 'close';
  const message = { message_id: id, from_addr: number, to_addr: dials };
  const msg = { ...message, content, session_event: event };
  phone.socket.send(JSON.stringify({ type: 'inbound', id, msg }));
}

$('#line').onsubmit = (event) => {
  event.preventDefault();
  heard(`dials ${$('#line').elements.dials.value}`, '', true);
  say(null, 'new');
};
$('#line').elements.hang.onclick = () => { heard('hangs up', '', true); say(null, 'close'); };
$('#say').onsubmit = (event) => {
  event.preventDefault();
  const field = event.target.elements.text;
  heard(field.value, '', true);
  say(phone.inSession ? field.value : null, phone.inSession ? 'resume' : 'new');
  field.value = '';
};
for (const button of document.querySelectorAll('nav button')) {
  button.onclick = () => show(button.dataset.tab);
}
for (const control of [$('#level'), $('#find')]) {
  control.oninput = () => { for (const line of $('#log ol').children) sift(line); };
}
$('#pause').onclick = ({ target }) => {
  if (target.dataset.on) delete target.dataset.on;
  else target.dataset.on = 1;
  target.textContent = target.dataset.on ? 'Continue' : 'Pause';
};
$('#notable').onchange = showRuns;
$('#limits form').onsubmit = (event) => {
  event.preventDefault();
  showLimits(event.target.elements.what.value);
};
$('#contacts form').onsubmit = async (event) => {
  event.preventDefault();
  const { account, query } = Object.fromEntries(new FormData(event.target));
  const output = $('#contacts output');
  try {
    const path = `/v1/accounts/${encodeURIComponent(account)}/contacts`;
    const { contacts, cursor } = await get(`${path}?query=${encodeURIComponent(query)}&limit=50`);
    output.textContent = cursor ? `the first ${contacts.length}` : `${contacts.length} found`;
    fill($('#contacts tbody'), contacts.map(({ key, name, surname, msisdn, groups }) => (
      { cells: [key, name, surname, msisdn, (groups || []).join(', ')].map((text) => cell(text)) }
    )));
  } catch (error) { output.textContent = error.message; }
};
$('#reload').onclick = async () => {
  const result = await (await ask('/v1/reload', { method: 'POST' })).json();
  if (!result.ok) {
    alert(`the old config is still in use:\n${result.errors.join('\n')}`);
    return;
  }
  const lines = ['live', 'next_process', 'restart'].flatMap((kind) => (
    result[kind].map((name) => `${kind.replace('_', ' ')}: ${name}`)));
  alert(lines.join('\n') || 'nothing has changed');
};

async function look() {
  try {
    await showHealth();
    if (!info.version) {
      info = await get('/v1/info');
      $('#version').textContent = `${info.version} ${info.commit}`;
    }
    await Promise.all([showApps(), showChannels(), showSandboxes(), showDead()]);
    if (app && tab === 'runs') await showRuns();
  } catch (error) {
    $('#health').textContent = `the server does not answer (${error.message})`;
    $('#health').className = 'bad';
  }
  setTimeout(look, EVERY);
}
look();
