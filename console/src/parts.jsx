// What several pages are made of.

import { useEffect, useId, useRef, useState } from 'preact/hooks';
import { Link } from 'wouter-preact';
import { onAskToken } from './api.js';
import { ago, clock } from './format.js';

export const appPath = (name, tab = '') => (
  `/ui/apps/${encodeURIComponent(name)}${tab ? `/${tab}` : ''}`);

// The tone of an app's or channel's state.
export function State({ state }) {
  const isGood = ['running', 'up', 'ok'].includes(state);
  const tone = isGood ? 'good' : ['failing', 'broken', 'tripped', 'down'].includes(state)
    ? 'bad' : 'warn';
  return <span class={`state ${tone}`}>{state}</span>;
}

export const Outcome = ({ outcome }) => (
  <span class={outcome === 'ok' ? 'good' : 'bad'}>{outcome}</span>);

export function Time({ at, isAgo = false }) {
  if (!at) return null;
  return <time dateTime={at} title={`${at}, ${ago(at)}`}>{isAgo ? ago(at) : clock(at)}</time>;
}

export function Problem({ error }) {
  return error ? <p class="problem bad" role="alert">{error.message}</p> : null;
}

// What came of an action (see useAction).
export function Came({ state }) {
  return (
    <output class={state?.isGood === false ? 'came bad' : 'came'}>
      {state?.isBusy ? '…' : state?.text}
    </output>
  );
}

// A table that scrolls by itself if it is too wide; `head`: the texts of its columns, those that
// begin with # are of numbers. With `label`, for those who do not see the heading above it.
export function Table({ label, head, children, empty = 'none' }) {
  const rows = Array.isArray(children) ? children.flat() : [children];
  const isEmpty = !rows.some(Boolean);
  return (
    <div class="scroll" role="region" aria-label={label} tabIndex={0}>
      <table>
        <thead>
          <tr>{head.map((text) => (
            <th scope="col" key={text} class={text.startsWith('#') ? 'n' : ''}>
              {text === '' ? <span class="unseen">actions</span> : text.replace(/^#/, '')}
            </th>
          ))}</tr>
        </thead>
        <tbody>
          {isEmpty ? <tr><td class="dim" colSpan={head.length}>{empty}</td></tr> : children}
        </tbody>
      </table>
    </div>
  );
}

// Tabs whose every one has a URL; arrow keys move between them. `tabs`: [name, text, path].
export function Tabs({ label, tabs, chosen, children }) {
  const id = useId();
  const moved = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...event.currentTarget.querySelectorAll('[role=tab]')];
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
  };
  return (
    <>
      <div class="tabs" role="tablist" aria-label={label} onKeyDown={moved}>
        {tabs.map(([name, text, path]) => (
          <Link key={name} href={path} role="tab" id={`${id}-${name}`}
            aria-selected={name === chosen ? 'true' : 'false'} aria-controls={`${id}-panel`}
            tabIndex={name === chosen ? 0 : -1}>{text}</Link>
        ))}
      </div>
      <div role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${chosen}`} tabIndex={-1}>
        {children}
      </div>
    </>
  );
}

function useModal(isOpen) {
  const dialog = useRef(null);
  useEffect(() => {
    if (isOpen && !dialog.current.open) dialog.current.showModal();
    if (!isOpen && dialog.current?.open) dialog.current.close();
  }, [isOpen]);
  return dialog;
}

export function TokenDialog() {
  const [asked, setAsked] = useState(null);
  useEffect(() => onAskToken(setAsked), []);
  const dialog = useModal(asked !== null);
  const given = (event) => {
    event.preventDefault();
    asked?.give(new FormData(event.target).get('token'));
    event.target.reset();
  };
  return (
    <dialog ref={dialog} onCancel={(event) => event.preventDefault()} aria-labelledby="ask-token">
      <form onSubmit={given}>
        <h2 id="ask-token">A token is needed</h2>
        {asked?.isWrong && <p class="bad" role="alert">The server does not know that token.</p>}
        <label>Token of the admin port
          <input id="token" name="token" type="password" autocomplete="current-password" required />
        </label>
        <p class="dim">It is kept until this tab is closed.</p>
        <button class="main">Use it</button>
      </form>
    </dialog>
  );
}

let ask = () => {};

// Ask before something is done that cannot be undone; resolves to whether it is to be done.
export const sure = (text, verb) => new Promise((resolve) => ask({ text, verb, resolve }));

export function SureDialog() {
  const [asked, setAsked] = useState(null);
  useEffect(() => { ask = setAsked; }, []);
  const dialog = useModal(asked !== null);
  const answer = (is) => { asked?.resolve(is); setAsked(null); };
  return (
    <dialog ref={dialog} onCancel={() => answer(false)} aria-labelledby="sure-text">
      <p id="sure-text">{asked?.text}</p>
      <p class="row">
        <button class="main" onClick={() => answer(true)}>{asked?.verb}</button>
        <button onClick={() => answer(false)}>Cancel</button>
      </p>
    </dialog>
  );
}

// Pages of a list that the server gives with cursors: `load` gets a cursor (null: the first page)
// and returns {rows, cursor}. A new `load` begins anew.
export function usePages(load) {
  const [found, setFound] = useState({ rows: [], cursor: null, isBusy: true, error: null });
  const current = useRef(load);
  current.current = load;
  const add = async (cursor, before) => {
    setFound((now) => ({ ...now, isBusy: true }));
    try {
      const page = await load(cursor);
      if (current.current !== load) return;
      setFound({ ...page, rows: [...before, ...page.rows], isBusy: false, error: null });
    } catch (error) {
      // Rows of another question must not stand below its error.
      if (current.current === load) setFound({ rows: before, cursor, isBusy: false, error });
    }
  };
  // The first page anew, in place, if that is all there is; an error is as good as the last answer.
  const refresh = async () => {
    try {
      const page = await load(null);
      if (current.current === load) {
        setFound((now) => (now.isBusy ? now : { ...page, isBusy: false, error: null }));
      }
    } catch (error) {
      if (current.current === load) setFound((now) => ({ ...now, error }));
    }
  };
  useEffect(() => { add(null, []); }, [load]);
  return {
    ...found,
    more: () => add(found.cursor, found.rows),
    refresh,
    drop: (is) => setFound((now) => ({ ...now, rows: now.rows.filter((row) => !is(row)) })),
  };
}

// Pages of a list whose newest page is asked for again every so many milliseconds, until somebody
// looks at older ones.
export function useNewest(load, size, every) {
  const pages = usePages(load);
  const isFirst = pages.rows.length <= size;
  useEffect(() => {
    if (!isFirst) return undefined;
    const timer = setInterval(() => { if (!document.hidden) pages.refresh(); }, every);
    return () => clearInterval(timer);
  }, [load, isFirst]);
  return { ...pages, isFirst };
}

export function More({ pages }) {
  return (
    <p class="row">
      <span class="dim" role="status">
        {pages.isBusy ? 'Loading …' : `${pages.rows.length} shown`}
      </span>
      {pages.cursor !== null && !pages.isBusy && <button onClick={pages.more}>Show more</button>}
    </p>
  );
}
