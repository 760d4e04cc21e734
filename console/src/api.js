// Requests to the admin port: with the token if there is one, and asking for it if one is needed.

import { atHost } from './host.js';
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';

const KEPT = 'token';  // in the session's storage: a tab that is closed forgets it

let asking = null;     // the promise of the token that is being asked for
let show = () => {};   // shows the dialog, which calls `give`

export function onAskToken(shower) {
  show = shower;
}

function askToken(isWrong) {
  asking ??= new Promise((resolve) => {
    show({
      isWrong,
      give(token) {
        sessionStorage.setItem(KEPT, token.trim());
        asking = null;
        show(null);
        resolve();
      },
    });
  });
  return asking;
}

export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEPT);
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const response = await fetch(atHost(path), { ...options, headers });
    if (response.status !== 401) return response;
    // Several requests may have failed with the old token: one dialog answers all.
    if (sessionStorage.getItem(KEPT) === token) await askToken(Boolean(token));
  }
}

export class Refused extends Error {
  constructor(status, text, body) {
    super(text);
    this.status = status;
    this.body = body;
  }
}

export async function get(path, options) {
  const response = await ask(path, options);
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Refused(response.status, `${response.status}: ${text.slice(0, 200)}`, null);
  }
  if (!response.ok) {
    const why = body.error ?? body.errors?.join('; ') ?? response.statusText;
    throw new Refused(response.status, why, body);
  }
  return body;
}

export const post = (path) => get(path, { method: 'POST' });
export const remove = (path) => get(path, { method: 'DELETE' });

export function url(parts, query = {}) {
  const path = parts.map((part) => encodeURIComponent(part)).join('/');
  const given = Object.entries(query).filter(([, value]) => value !== '' && value != null);
  const search = new URLSearchParams(given).toString();
  return `/${path}${search ? `?${search}` : ''}`;
}

// What a path answers, asked again every `every` ms (0: once) while the page is visible. What is
// there stays while it is asked for, and if it cannot be had, so that nothing jumps or loses focus.
export function useData(path, every = 0) {
  const [found, setFound] = useState({ data: null, error: null, path: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (path === null) return undefined;
    const aborter = new AbortController();
    let timer = 0;
    async function look() {
      clearTimeout(timer);
      if (!document.hidden) {
        try {
          const data = await get(path, { signal: aborter.signal });
          setFound({ data, error: null, path });
        } catch (error) {
          if (aborter.signal.aborted) return;
          setFound((before) => ({ ...before, error, path }));
        }
      }
      if (every && !aborter.signal.aborted) timer = setTimeout(look, every);
    }
    look();
    const again = () => { if (!document.hidden && every) look(); };
    document.addEventListener('visibilitychange', again);
    return () => {
      aborter.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', again);
    };
  }, [path, every, turn]);
  const again = useCallback(() => setTurn((before) => before + 1), []);
  const isOther = found.path !== path;
  return { data: found.data, error: isOther ? null : found.error, isOther, again };
}

// Calls `work` and says what came of it: [state, run], with state null, 'busy', or a text.
export function useAction() {
  const [state, setState] = useState(null);
  const isThere = useRef(true);
  useEffect(() => () => { isThere.current = false; }, []);
  const run = useCallback(async (work) => {
    setState({ isBusy: true, text: '' });
    let next;
    try {
      next = { isBusy: false, isGood: true, text: (await work()) ?? '' };
    } catch (error) {
      next = { isBusy: false, isGood: false, text: error.message };
    }
    if (isThere.current) setState(next);
    return next.isGood;
  }, []);
  return [state, run];
}
