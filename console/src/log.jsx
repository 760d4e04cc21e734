// An app's log, live: levels, a text, a time to begin at; it follows until somebody scrolls up or
// the connection is lost, and says so.

import { useEffect, useRef, useState } from 'preact/hooks';
import { useSearchParams } from 'wouter-preact';
import { ask, url } from './api.js';
import { clock, word } from './format.js';
import { Said } from './said.jsx';
import { useVirtual } from './virtual.jsx';

const LINES = 10000;       // kept on the page
const AGAIN = 2000;        // ms until a lost connection is made again
const NEAR = 24;           // px from the end that count as the end
const LINE_HEIGHT = 19;    // px, of most
const LEVELS = ['debug', 'info', 'warning', 'error', 'critical'];
const TONES = { WARNING: 'warn', ERROR: 'bad', CRITICAL: 'bad', MISSED: 'bad' };

async function read(path, signal, took) {
  const response = await ask(path, { signal });
  if (!response.ok) {
    const error = new Error((await response.json()).error);
    error.isFinal = response.status === 400 || response.status === 404;
    throw error;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ''; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    took(lines.map((line) => JSON.parse(line)));
  }
}

// The entries that a path streams, and how the connection is: [entries, state].
function useStream(path) {
  const [entries, setEntries] = useState([]);
  const [state, setState] = useState({ text: 'Connecting …' });
  useEffect(() => {
    const aborter = new AbortController();
    let waiting = [], frame = 0, timer = 0, number = 0;
    const flush = () => {
      frame = 0;
      const some = waiting;
      waiting = [];
      setEntries((before) => before.concat(some).slice(-LINES));
    };
    const take = (some) => {
      for (const entry of some) { number += 1; waiting.push({ ...entry, number }); }
      if (!frame) frame = setTimeout(flush, 60);
    };
    const connect = async () => {
      setEntries([]);
      waiting = [];
      setState({ isLive: true, text: '' });
      let why = 'the server ended it';
      try {
        await read(path, aborter.signal, take);
      } catch (error) {
        if (aborter.signal.aborted) return;
        why = error.message;
        if (error.isFinal) { setState({ text: why, isBad: true }); return; }
      }
      if (aborter.signal.aborted) return;
      const at = clock(new Date().toISOString()).slice(11, 19);
      setState({ isBad: true, text: `Not live since ${at}: ${why}. Connecting again …` });
      timer = setTimeout(connect, AGAIN);
    };
    connect();
    return () => { aborter.abort(); clearTimeout(frame); clearTimeout(timer); };
  }, [path]);
  return [entries, state];
}

function Controls({ given, change }) {
  const submitted = (event) => {
    event.preventDefault();
    change(Object.fromEntries(new FormData(event.currentTarget)));
  };
  return (
    <form class="filters" onSubmit={submitted} aria-label="Filter the log">
      <label>Level
        <select name="level" onChange={(event) => event.target.form.requestSubmit()}>
          {LEVELS.map((name) => (
            <option key={name} value={name === 'debug' ? '' : name} selected={name === given.level}>
              {name === 'debug' ? 'all' : name}
            </option>
          ))}
        </select>
      </label>
      <label>Search <input name="grep" type="search" defaultValue={given.grep} /></label>
      <label>Since
        <input name="since" defaultValue={given.since} size="10" placeholder="10m" /></label>
      <button>Filter</button>
    </form>
  );
}

function Entry({ entry }) {
  return (
    <>
      <time dateTime={entry.time} title={entry.time}>{entry.time ? clock(entry.time) : ''}</time>
      {' '}<span class={TONES[entry.level] ?? 'dim'}>{entry.level}</span>
      <div class="message"><Said text={entry.message} lines /></div>
    </>
  );
}

function Lines({ entries, isFollowing, setFollowing }) {
  const box = useRef(null);
  const virtual = useVirtual({
    count: entries.length,
    getScrollElement: () => box.current,
    estimateSize: () => LINE_HEIGHT,
    getItemKey: (index) => entries[index]?.number ?? index,
  });
  useEffect(() => {
    if (isFollowing && entries.length) {
      virtual.scrollToIndex(entries.length - 1, { align: 'end' });
    }
  }, [entries, isFollowing]);
  // Only a person's own scrolling stops it: what is measured or comes in moves the box, too.
  const moved = () => requestAnimationFrame(() => {
    const { scrollTop, clientHeight, scrollHeight } = box.current ?? {};
    if (scrollTop + clientHeight >= scrollHeight - NEAR) setFollowing(true);
  });
  const up = () => {
    if (box.current.scrollTop > 0) setFollowing(false);
  };
  const key = (event) => {
    if (['ArrowUp', 'PageUp', 'Home'].includes(event.key)) up();
  };
  const items = virtual.getVirtualItems();
  return (
    <div class="log" ref={box} tabIndex={0} role="log" aria-live="off" aria-label="Log"
      onScroll={moved} onKeyDown={key} onWheel={(event) => { if (event.deltaY < 0) up(); }}
      onTouchMove={up} onPointerDown={(event) => { if (event.target === box.current) up(); }}>
      <div class="inner" style={{ height: `${virtual.getTotalSize()}px` }}>
        {items.map((item) => (
          <div key={item.key} data-index={item.index} class="entry" ref={virtual.measureElement}
            style={{ transform: `translateY(${item.start}px)` }}>
            <Entry entry={entries[item.index]} />
          </div>
        ))}
      </div>
    </div>
  );
}

export function Log({ app, limit = LINES, isSmall = false }) {
  const [search, setSearch] = useSearchParams();
  const asked = (name) => (isSmall ? '' : search.get(name) ?? '');
  const given = { level: asked('level'), grep: asked('grep'), since: asked('since') };
  const path = url(['v1', 'apps', app.name, 'logs'], { follow: 1, limit, ...given });
  const [entries, state] = useStream(path);
  const [isFollowing, setFollowing] = useState(true);
  const seen = useRef(0);
  const last = entries.at(-1)?.number ?? 0;
  if (isFollowing) seen.current = last;
  const change = (values) => setSearch(Object.entries(values).filter(([, value]) => value));
  const command = `jsbox logs ${app.name} -f${Object.entries(given)
    .filter(([, value]) => value).map(([name, value]) => ` --${name} ${word(value)}`).join('')}`;
  return (
    <>
      {!isSmall && <Controls given={given} change={change} />}
      <Lines entries={entries} isFollowing={isFollowing} setFollowing={setFollowing} />
      <p class="row">
        <span role="status" class={state.isBad ? 'bad' : ''}>
          {state.isLive
            ? isFollowing ? 'Following.'
              : `Not following: ${last - seen.current} new lines below.`
            : <Said text={state.text} />}
        </span>
        {!isFollowing && state.isLive
          && <button onClick={() => setFollowing(true)}>Jump to the newest</button>}
        {!isSmall && <code class="dim"><Said text={command} /></code>}
      </p>
    </>
  );
}
