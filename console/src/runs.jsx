// An app's runs with filters, and the time line of one of them beside the list.

import { useCallback } from 'preact/hooks';
import { Link, useSearchParams } from 'wouter-preact';
import { get, url } from './api.js';
import { duration } from './format.js';
import { More, Outcome, Problem, Table, Time, appPath, useNewest } from './parts.jsx';
import { Said } from './said.jsx';
import { TimeLine } from './timeline.jsx';

const OUTCOMES = ['failed', 'ok', 'no_reply', 'app_error', 'boot', 'wall', 'cpu', 'heap', 'memory',
  'output', 'commands', 'protocol', 'crashed', 'killed_by_operator', 'host_oom', 'shutdown',
  'dead_letter'];
const FILTERS = ['user', 'outcome', 'since', 'until', 'longer', 'notable'];
const PAGE = 50;

// Times are typed as the browser has them, without a zone, and asked for with one. What is none, in
// a URL that somebody has changed, is left to the server's answer.
function zoned(text) {
  const time = /^\d{4}-/.test(text) ? new Date(text) : null;
  return time && !Number.isNaN(time.getTime()) ? time.toISOString() : text;
}

function Filters({ given, change }) {
  const submitted = (event) => {
    event.preventDefault();
    const form = Object.fromEntries(new FormData(event.currentTarget));
    change(Object.fromEntries(FILTERS.map((name) => [name, (form[name] ?? '').trim()])));
  };
  return (
    <form class="filters" onSubmit={submitted} aria-label="Filter the runs"
      key={FILTERS.map((name) => given[name]).join(' ')}>
      <label>User
        <input name="user" defaultValue={given.user} placeholder="+27…" size="14" /></label>
      <label>Outcome
        <select name="outcome" defaultValue={given.outcome}
          onChange={(event) => event.target.form.requestSubmit()}>
          <option value="">any</option>
          {OUTCOMES.map((name) => (
            <option key={name} selected={name === given.outcome}>{name}</option>
          ))}
        </select>
      </label>
      <label>From <input name="since" type="datetime-local" defaultValue={given.since} /></label>
      <label>To <input name="until" type="datetime-local" defaultValue={given.until} /></label>
      <label>Longer than
        <input name="longer" defaultValue={given.longer} placeholder="500ms" size="6" /></label>
      <label class="check">
        <input name="notable" type="checkbox" value="1" defaultChecked={given.notable === '1'}
          onChange={(event) => event.target.form.requestSubmit()} /> failed or slow only</label>
      <button>Filter</button>
    </form>
  );
}

function useRuns(app, given) {
  const query = { app, limit: PAGE };
  for (const name of FILTERS) query[name] = given[name];
  for (const name of ['since', 'until']) query[name] = zoned(given[name]);
  const path = url(['v1', 'traces'], query);
  const load = useCallback(async (cursor) => {
    let rows = [], next = cursor;
    do {  // the server looks at some thousands at a time
      const more = next === null ? '' : `&cursor=${next}`;
      const found = await get(path + more);
      rows = rows.concat(found.traces);
      next = found.cursor;
    } while (next !== null && rows.length === 0);
    return { rows, cursor: next };
  }, [path]);
  return useNewest(load, PAGE, 5000);
}

export function Runs({ app }) {
  const [search, setSearch] = useSearchParams();
  const given = Object.fromEntries(FILTERS.map((name) => [name, search.get(name) ?? '']));
  const run = search.get('run');
  const pages = useRuns(app.name, given);
  const change = (values) => setSearch(Object.entries(values).filter(([, value]) => value));
  const runPath = (message) => {
    const next = new URLSearchParams(search);
    next.set('run', message);
    return `${appPath(app.name)}?${next}`;
  };
  return (
    <>
      <Filters given={given} change={change} />
      <div class={run ? 'beside' : ''}>
        <div>
          <Problem error={pages.error} />
          <Table label="Runs" empty={pages.isBusy ? 'Loading …' : 'No such runs are kept.'}
            head={['Began', 'User', 'Outcome', '#Time', 'Message', 'Detail']}>
            {pages.rows.map((one) => (
              <tr key={`${one.message} ${one.began}`} class={one.message === run ? 'on' : ''}>
                <td><Time at={one.began} /></td>
                <td><Said text={one.user} /></td>
                <td><Outcome outcome={one.outcome} /></td>
                <td class="n">{duration(one.ms.total / 1000)}</td>
                <td class="id">
                  <Link href={runPath(one.message)} replace
                    aria-current={one.message === run ? 'true' : undefined}>
                    <Said text={one.message} />
                  </Link>
                </td>
                <td class="wide"><Said text={one.detail.split('\n')[0]} /></td>
              </tr>
            ))}
          </Table>
          <More pages={pages} />
          <p class="dim">{pages.isFirst ? 'The list follows.' : 'The list does not follow.'}
            {' '}<code>jsbox trace --app {app.name}</code></p>
        </div>
        {run && <TimeLine message={run} close={appPath(app.name) + without(search)} />}
      </div>
    </>
  );
}

function without(search) {
  const next = new URLSearchParams(search);
  next.delete('run');
  return next.size ? `?${next}` : '';
}
