// A phone that talks to the app over the gateway, and what the app keeps of its user beside it.

import { useEffect, useRef, useState } from 'preact/hooks';
import { get, useData } from './api.js';
import { Gateway } from './gateway.js';
import { Log } from './log.jsx';
import { Said } from './said.jsx';
import { State as Kept } from './userstate.jsx';

const USSD_MOST = 182;  // characters of a screen, in the alphabet that phones have in common
const GSM = /^[@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !"#¤%&'()*+,\-./0-9:;<=>?¡A-ZÄÖÑÜ§¿a-zäöñüà]*$/;

function lengthNote(text) {
  const most = GSM.test(text) ? USSD_MOST : 80;
  const note = `${text.length} of ${most} characters`;
  return text.length > most ? `${note}: too long for one USSD screen` : note;
}

// The conversation: what was said, whether a session is open, and the ways to say more.
function useTalk(info) {
  const [heard, setHeard] = useState([]);
  const [isOpen, setOpen] = useState(false);
  const [runs, setRuns] = useState(0);
  const line = useRef({ gateway: null, key: '' });
  useEffect(() => () => line.current.gateway?.close(), []);
  const add = (item) => setHeard((before) => [...before.slice(-199), item]);
  const took = (frame) => {
    if (frame.type === 'rejected') add({ note: `rejected: ${frame.code}: ${frame.detail}` });
    if (frame.type === 'error') add({ note: `${frame.code}: ${frame.detail}` });
    if (frame.type === 'outcome') {
      setRuns((before) => before + 1);
      if (frame.outcome !== 'ok') add({ note: `the run ended as ${frame.outcome}` });
    }
    if (frame.type === 'outbound') {
      const isClosed = frame.msg.session_event === 'close';
      if (isClosed) setOpen(false);
      const text = frame.msg.content ?? '';
      add({ text, note: `${lengthNote(text)}${isClosed ? ', session closed' : ''}` });
    }
  };
  const connect = async ({ channel, token, number }) => {
    const key = `${channel} ${number} ${token}`;
    const known = line.current;
    if (known.gateway?.isOpen && known.key === key) return known.gateway;
    known.gateway?.close();
    const gateway = new Gateway({
      url: info.gateway, channel, token, heard: took, closed: () => setOpen(false),
    });
    line.current = { gateway, key };
    await gateway.open();
    return gateway;
  };
  const say = async (form, content, event) => {
    try {
      const gateway = await connect(form);
      setOpen(event !== 'close');
      gateway.say({
        from_addr: form.number, to_addr: form.dials, content, session_event: event,
      });
    } catch (error) { add({ note: error.message }); }
  };
  return { heard, isOpen, runs, add, say };
}

function Screen({ heard }) {
  const end = useRef(null);
  useEffect(() => { end.current?.scrollIntoView({ block: 'nearest' }); }, [heard]);
  return (
    <ol class="screen" aria-live="polite" aria-label="What was said" tabIndex={0}>
      {heard.map((item, index) => (
        <li key={index} class={item.isMine ? 'mine' : ''} ref={end}>
          <Said text={item.text} lines />
          {item.note && <small><Said text={item.note} /></small>}
        </li>
      ))}
    </ol>
  );
}

// The keys that the newest runs of this user asked for, with what they hold now.
function useKept(app, number, runs) {
  const [kept, setKept] = useState({ values: [], error: null });
  useEffect(() => {
    let isOver = false;
    (async () => {
      try {
        const query = new URLSearchParams({ app: app.name, user: number, limit: 3 });
        const { traces } = await get(`/v1/traces?${query}`);
        const keys = new Set();
        for (const { message } of traces) {
          const { steps } = await get(`/v1/traces/${encodeURIComponent(message)}`);
          for (const { name, note } of steps) if (name.startsWith('kv.') && note) keys.add(note);
        }
        const values = await Promise.all([...keys].slice(0, 30).map((key) => get(
          `/v1/accounts/${encodeURIComponent(app.account)}/kv/${encodeURIComponent(key)}`)));
        if (!isOver) setKept({ values, error: null });
      } catch (error) {
        if (!isOver) setKept((before) => ({ ...before, error }));
      }
    })();
    return () => { isOver = true; };
  }, [app.name, app.account, number, runs]);
  return kept;
}

export function Phone({ app }) {
  const { data: info } = useData('/v1/info');
  return info ? <Handset app={app} info={info} /> : null;
}

function Handset({ app, info }) {
  const channels = [...new Set(Object.values(app.endpoints))];
  const [form, setForm] = useState({
    channel: channels[0] ?? '', number: '+27820000001', dials: '*120*1#', token: '',
  });
  const { heard, isOpen, runs, add, say } = useTalk(info);
  const kept = useKept(app, form.number, runs);
  const set = (event) => {
    const { name, value } = event.target;
    setForm((before) => ({ ...before, [name]: value }));
  };
  const dial = (event) => {
    event.preventDefault();
    add({ text: `dials ${form.dials}`, isMine: true });
    say(form, null, 'new');
  };
  const hangUp = () => { add({ text: 'hangs up', isMine: true }); say(form, null, 'close'); };
  const answer = (event) => {
    event.preventDefault();
    const text = new FormData(event.target).get('text');
    add({ text, isMine: true });
    say(form, isOpen ? text : null, isOpen ? 'resume' : 'new');
    event.target.reset();
  };
  return (
    <div class="handset">
      <section aria-label="Phone">
        <form class="filters" onSubmit={dial}>
          <label>Channel
            <select name="channel" value={form.channel} onChange={set}>
              {channels.map((name) => <option key={name}>{name}</option>)}
            </select></label>
          <label>Number <input name="number" value={form.number} onInput={set} size="13" /></label>
          <label>Dials <input name="dials" value={form.dials} onInput={set} size="9" /></label>
          <label>Token of the channel
            <input name="token" type="password" value={form.token} onInput={set} size="8"
              autocomplete="off" /></label>
          <button class="main">Dial</button>
          <button type="button" onClick={hangUp} disabled={!isOpen}>Hang up</button>
        </form>
        <Screen heard={heard} />
        <form class="row" onSubmit={answer}>
          <label class="wide"><span class="unseen">Answer</span>
            <input name="text" autocomplete="off" placeholder="type an answer" /></label>
          <button>Send</button>
        </form>
        <p class="dim">{isOpen ? 'A session is open.' : 'No session is open.'}</p>
      </section>
      <section aria-label="What the app keeps">
        <Kept kept={kept} number={form.number} />
      </section>
      <section aria-label="Log"><h2>Log</h2><Log app={app} limit={200} isSmall /></section>
    </div>
  );
}
