// One app: how it is doing, and its runs, log, limits and phone.

import { useMemo } from 'preact/hooks';
import { useData } from './api.js';
import { Line, timesOf } from './chart.jsx';
import { count, duration, percent, rate } from './format.js';
import { Limits } from './limits.jsx';
import { Log } from './log.jsx';
import { Problem, State, Tabs, appPath } from './parts.jsx';
import { Phone } from './phone.jsx';
import { Runs } from './runs.jsx';
import { Said } from './said.jsx';

const TABS = { runs: Runs, log: Log, limits: Limits, phone: Phone };

function Figures({ name }) {
  const { data } = useData(`/v1/apps/${encodeURIComponent(name)}/figures`, 10000);
  const times = useMemo(
    () => data && timesOf(data.now, data.step, data.series.runs.length), [data]);
  if (!data) return null;
  const { series, step, recent } = data;
  const failed = recent.runs ? recent.failed / recent.runs : 0;
  return (
    <ul class="cards small" aria-label="Figures">
      <li><h2>Runs/s</h2><p class="figure">{rate(recent.runs / 300)}</p>
        <Line label="Runs/s" times={times} values={series.runs.map((one) => one / step)}
          show={rate} /></li>
      <li><h2>Failed</h2>
        <p class={failed ? 'figure bad' : 'figure'}>{percent(failed)}</p>
        <Line label="Failed" times={times} tone="--bad" show={count} isBar most={5}
          values={series.failed} /></li>
      <li><h2>Time, p50</h2><p class="figure">{duration(recent.p50) || '–'}</p>
        <Line label="Time, p50" times={times} values={series.p50} show={duration} /></li>
      <li><h2>Time, p99</h2><p class="figure">{duration(recent.p99) || '–'}</p>
        <Line label="Time, p99" times={times} values={series.p99} show={duration} /></li>
    </ul>
  );
}

function About({ app }) {
  const { busy, idle, booting } = app.processes;
  const endpoints = Object.entries(app.endpoints).map(([endpoint, channel]) => (
    `${endpoint}: ${channel} (${app.connections[channel] ?? 0} connected)`));
  return (
    <>
      <p class="row">
        <State state={app.state} />
        <span>account {app.account}</span>
        <span class={app.queue ? 'warn' : ''}>{count(app.queue)} waiting</span>
        <span>{busy} busy, {idle} idle, {booting} starting</span>
        <span class="dim">{endpoints.join('; ')}</span>
      </p>
      {app.state !== 'running' && app.last
        && <div class="problem bad" role="status"><Said text={app.last} lines /></div>}
    </>
  );
}

export function App({ name, tab }) {
  const { data, error } = useData('/v1/apps', 3000);
  const app = data?.apps.find((one) => one.name === name);
  const Tab = TABS[tab] ?? Runs;
  const tabs = [['runs', 'Runs', appPath(name)], ['log', 'Log', appPath(name, 'log')],
    ['limits', 'Limits', appPath(name, 'limits')], ['phone', 'Phone', appPath(name, 'phone')]];
  return (
    <>
      <h1><Said text={name} /></h1>
      <Problem error={error} />
      {data && !app && <p class="bad" role="alert">There is no such app in the config.</p>}
      {app && <About app={app} />}
      {app && <Figures name={name} />}
      {app && (
        <Tabs label={`App ${name}`} tabs={tabs} chosen={tab in TABS ? tab : 'runs'}>
          <Tab app={app} />
        </Tabs>
      )}
    </>
  );
}
