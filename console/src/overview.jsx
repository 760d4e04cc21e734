// The first question of an operator: is anything wrong, and where?

import { useMemo } from 'preact/hooks';
import { Link } from 'wouter-preact';
import { useData } from './api.js';
import { Line, timesOf } from './chart.jsx';
import { count, duration, percent, rate, size } from './format.js';
import { appPath, Problem, State, Table, Time } from './parts.jsx';
import { Said } from './said.jsx';
import { OtherTrouble, useOtherTroubles } from './servers.jsx';

const share = (failed, runs) => (runs ? failed / runs : null);

function cardsOf({ series, step, gauges, recent }) {
  const minutes = 300;
  return [
    { name: 'Messages/s', now: rate(recent.runs / minutes), show: rate,
      values: series.runs.map((runs) => runs / step) },
    { name: 'Failed', now: percent(share(recent.failed, recent.runs) ?? 0), show: percent,
      values: series.failed.map((failed, at) => share(failed, series.runs[at])),
      tone: '--bad', most: 0.1, isBar: true, isBad: recent.failed > 0 },
    { name: 'Time, p50', now: duration(recent.p50) || '–', values: series.p50, show: duration },
    { name: 'Time, p99', now: duration(recent.p99) || '–', values: series.p99, show: duration },
    { name: 'Queue', now: count(gauges.queue), values: series.queue, show: count, most: 10 },
    { name: 'Outbox', now: count(gauges.outbox), values: series.outbox, show: count, most: 10 },
    { name: 'Processes', now: count(gauges.processes), values: series.processes, show: count,
      most: 4 },
    { name: 'Memory', now: size(gauges.memory), values: series.memory, show: size },
  ];
}

function Cards({ data }) {
  const cards = useMemo(() => cardsOf(data), [data]);
  const times = useMemo(() => timesOf(data.now, data.step, data.series.runs.length), [data]);
  return (
    <ul class="cards" aria-label="Figures">
      {cards.map(({ name, now, isBad, ...line }) => (
        <li key={name}>
          <h2>{name}</h2>
          <p class={isBad ? 'figure bad' : 'figure'}>{now}</p>
          <Line label={name} times={times} {...line} />
        </li>
      ))}
    </ul>
  );
}

// Where the cause is found.
function whereOf({ what, app, channel }) {
  if (what === 'dead letters') return '/ui/deadletters';
  if (what === 'config') return '/ui/config';
  if (what === 'rejected' && app) return appPath(app);
  if (what === 'clients' && !channel) return '/ui/channels';
  if (channel) return `/ui/channels/${encodeURIComponent(channel)}`;
  if (what === 'slow') return `${appPath(app)}?notable=1`;
  if (app) return what === 'failed' ? `${appPath(app)}?outcome=failed` : appPath(app, 'runs');
  return '/ui/hosts';
}

const WORDS = {
  config: 'Reload', unread: 'nobody reads', clients: 'clients refused',
  rejected: 'rejected messages', kv: 'Key-value store',
  failed: 'failed runs',
  redis: 'Store', disk: 'Disk', search: 'Search', loop: 'Supervisor', server: 'Server',
  age: 'behind', slow: 'slow', queue: 'queue', state: '',
};

function whatOf({ what, app, channel }) {
  const where = channel ? `Channel ${channel}` : app ? `App ${app}` : '';
  const word = WORDS[what] ?? what;
  return where && word && what !== 'channel' ? `${where}: ${word}` : where || word;
}

// The same while its text changes; several accounts may have a full store.
const keyOf = ({ what, app, channel, text }) => (
  `${what} ${app} ${channel} ${what === 'kv' ? text : ''}`);

function Troubles({ troubles }) {
  const others = useOtherTroubles();
  if (!troubles.length && !others.length) {
    return <p class="good all-well" role="status">Nothing is wrong.</p>;
  }
  return (
    <section>
      <h2>What is wrong</h2>
      <ul class="troubles">
        {troubles.map((one) => (
          <li key={keyOf(one)} class={one.level}>
            <Link href={whereOf(one)}>{whatOf(one)}</Link>
            {' '}<Said text={one.text} />
          </li>
        ))}
        {others.map((one) => <OtherTrouble key={`${one.server} ${one.text}`} one={one} />)}
      </ul>
    </section>
  );
}

// How much an app needs somebody: first what does not run, then what fails, then what waits.
function need(app, figures) {
  const recent = figures?.recent;
  return (app.state === 'running' ? 0 : 1e9)
    + (share(recent?.failed, recent?.runs) ?? 0) * 1e6 + app.queue * 10 + (recent?.p99 ?? 0);
}

function Apps({ apps, figures }) {
  const sorted = [...apps].sort((one, other) => (
    need(other, figures[other.name]) - need(one, figures[one.name])
    || one.name.localeCompare(other.name)));
  return (
    <section>
      <h2>Apps</h2>
      <Table label="Apps" empty="The config has no apps."
        head={['App', 'State', '#Runs/h', '#Failed', '#p50', '#p99', '#Queue', '#Processes',
          'Last error']}>
        {sorted.map((app) => {
          const { hour, last_error: error } = figures[app.name] ?? {};
          const { busy, idle, booting } = app.processes;
          return (
            <tr key={app.name}>
              <th scope="row"><Link href={appPath(app.name)}>{app.name}</Link></th>
              <td><State state={app.state} /></td>
              <td class="n">{count(hour?.runs)}</td>
              <td class={hour?.failed ? 'n bad' : 'n'}>
                {hour?.failed
                  ? `${count(hour.failed)}, ${percent(share(hour.failed, hour.runs))}` : 0}
              </td>
              <td class="n">{duration(hour?.p50)}</td>
              <td class="n">{duration(hour?.p99)}</td>
              <td class={app.queue ? 'n warn' : 'n'}>{count(app.queue)}</td>
              <td class="n" title={`${busy} busy, ${idle} idle, ${booting} starting`}>
                {busy + idle + booting}
              </td>
              <td class="wide">
                {error ? <ErrorOf error={error} /> : <Said text={reason(app)} />}
              </td>
            </tr>
          );
        })}
      </Table>
    </section>
  );
}

const reason = (app) => (app.state === 'running' ? '' : (app.last ?? '').split('\n')[0]);

function ErrorOf({ error }) {
  return (
    <Link href={`${appPath(error.app)}?run=${encodeURIComponent(error.message)}`}>
      <Time at={error.began} isAgo /> <span class="bad">{error.outcome}</span>{' '}
      <Said text={error.detail.split('\n')[0]} />
    </Link>
  );
}

export function Overview() {
  const overview = useData('/v1/overview', 5000);
  const apps = useData('/v1/apps', 3000);
  return (
    <>
      <h1 class="unseen">Overview</h1>
      <Problem error={overview.error ?? apps.error} />
      {overview.data && <Troubles troubles={overview.data.troubles} />}
      {overview.data && <Cards data={overview.data} />}
      {apps.data && <Apps apps={apps.data.apps} figures={overview.data?.apps ?? {}} />}
    </>
  );
}
