// Messages and events that were set aside.

import { useCallback } from 'preact/hooks';
import { Link, useLocation, useSearchParams } from 'wouter-preact';
import { get, post, remove, url, useAction, useData } from './api.js';
import { size } from './format.js';
import { Came, More, Problem, Table, Time, appPath, sure, usePages } from './parts.jsx';
import { Said } from './said.jsx';

const letterPath = (id) => `/ui/deadletters/${encodeURIComponent(id)}`;

export function DeadLetters() {
  const [search, setSearch] = useSearchParams();
  const app = search.get('app') ?? '';
  const apps = useData('/v1/apps');
  const path = url(['v1', 'deadletters'], { limit: 50, app });
  const load = useCallback(async (cursor) => {
    const page = await get(cursor === null ? path : `${path}&cursor=${encodeURIComponent(cursor)}`);
    return { rows: page.deadletters, cursor: page.cursor };
  }, [path]);
  const pages = usePages(load);
  const names = [...new Set([...(apps.data?.apps ?? []).map((one) => one.name), app])]
    .filter(Boolean);
  return (
    <>
      <h1>Dead letters</h1>
      <p class="dim">Messages and events that were not run again because the server ended during
        them, or that cannot be read. <code>jsbox deadletters</code></p>
      <form class="filters" aria-label="Filter the dead letters">
        <label>App
          <select onChange={({ target }) => setSearch(target.value ? { app: target.value } : {})}>
            <option value="">all</option>
            {names.map((name) => <option key={name} selected={name === app}>{name}</option>)}
          </select>
        </label>
      </form>
      <Problem error={pages.error} />
      <Table label="Dead letters" empty={pages.isBusy ? 'Loading …' : 'There are none.'}
        head={['Set aside', 'App', 'Kind', 'Message', '#Attempts', 'Reason', '#Size']}>
        {pages.rows.map((one) => (
          <tr key={one.id}>
            <td><Link href={letterPath(one.id)}><Time at={one.time} /></Link></td>
            <td><Link href={appPath(one.app)}>{one.app}</Link></td>
            <td>{one.kind || 'unreadable'}</td>
            <td class="id"><Said text={one.message_id} /></td>
            <td class="n">{one.attempts}</td>
            <td class="wide"><Said text={one.reason} /></td>
            <td class="n">{size(one.size)}</td>
          </tr>
        ))}
      </Table>
      <More pages={pages} />
    </>
  );
}

export function DeadLetter({ id }) {
  const path = `/v1/deadletters/${encodeURIComponent(id)}`;
  const { data, error } = useData(path);
  const [state, run] = useAction();
  const [, go] = useLocation();
  const back = async (work) => { if (await run(work)) go('/ui/deadletters'); };
  const retry = () => back(() => post(`${path}/retry`).then(() => 'It is in line again.'));
  const drop = async () => {
    if (await sure('Delete this dead letter? Nothing is left of it.', 'Delete it')) {
      back(() => remove(path).then(() => 'Deleted.'));
    }
  };
  return (
    <>
      <h1>Dead letter <Said text={data?.message_id || id} /></h1>
      <p><Link href="/ui/deadletters">All dead letters</Link></p>
      <Problem error={error} />
      {data && (
        <>
          <dl class="facts">
            <dt>Reason</dt><dd><Said text={data.reason} lines /></dd>
            <dt>App</dt><dd><Link href={appPath(data.app)}>{data.app}</Link></dd>
            <dt>Account</dt><dd>{data.account}</dd>
            <dt>Channel</dt><dd>{data.channel}</dd>
            <dt>Accepted</dt><dd><Time at={data.accepted} /></dd>
            <dt>Set aside</dt><dd><Time at={data.time} /></dd>
            <dt>Attempts</dt><dd>{data.attempts}</dd>
          </dl>
          <p class="row">
            <button class="main" onClick={retry} disabled={!data.can_retry}>Retry</button>
            <button onClick={drop}>Delete</button>
            <Came state={state} />
          </p>
          {!data.can_retry && <p class="dim">It cannot be run: it cannot be read.</p>}
          <pre tabIndex={0}>
            <Said lines text={data.raw ?? JSON.stringify(data.entry, null, 2)} /></pre>
          {data.cut > 0 && <p class="dim">{size(data.cut)} more are not shown.</p>}
        </>
      )}
    </>
  );
}
