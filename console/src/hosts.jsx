// This host, the server that answers, and its processes.

import { post, useAction, useData } from './api.js';
import { count, duration, size } from './format.js';
import { Link } from 'wouter-preact';
import { Came, Problem, Table, appPath, sure } from './parts.jsx';
import { Said } from './said.jsx';
import { Servers } from './servers.jsx';

function factsOf(host, info) {
  const lease = { true: 'this server has it', false: 'lost' }[host.lease_held]
    ?? 'none is needed: no other server can reach the store';
  return [
    ['Name', host.name],
    ['Process', host.pid],
    ['Up for', duration(host.uptime)],
    ['CPUs', `${host.cpus}, load ${host.load.toFixed(2)}`],
    ['Isolation', host.isolation],
    ['Processes', `${host.processes_max} at most`],
    ['Lateness of the loop', duration(host.loop_lag)],
    ['Free on data_dir', host.disk_free == null ? 'not known' : size(host.disk_free)],
    ['Store', host.store],
    ['Mode', host.mode],
    ['Lease of the store', lease],
    ['Search', host.search],
    ...Object.entries(info ?? {}).filter(([, value]) => value),
  ];
}

function Checks() {
  const { data, error } = useData('/v1/overview', 5000);
  const own = (data?.troubles ?? []).filter((one) => !one.app && !one.channel);
  if (error) return <Problem error={error} />;
  if (!data || !own.length) return null;
  return (
    <ul class="troubles">
      {own.map((one) => (
        <li key={one.what} class={one.level}><b>{one.what}</b> <Said text={one.text} /></li>))}
    </ul>
  );
}

export function Hosts() {
  const host = useData('/v1/host', 3000);
  const info = useData('/v1/info');
  return (
    <>
      <h1>Hosts</h1>
      <Problem error={host.error} />
      <Checks />
      {host.data && (
        <dl class="facts columns">
          {factsOf(host.data, info.data).map(([name, value]) => (
            <div key={name}><dt>{name}</dt><dd><Said text={String(value)} /></dd></div>
          ))}
        </dl>
      )}
      <Servers />
      <Processes />
    </>
  );
}

function Processes() {
  const { data, error, again } = useData('/v1/sandboxes', 3000);
  const [state, run] = useAction();
  const end = async ({ pid, app, state: doing }) => {
    const more = doing === 'busy' ? ' Its run ends as killed_by_operator.' : '';
    if (!await sure(`End process ${pid} of ${app}?${more}`, 'End it')) return;
    await run(() => post(`/v1/sandboxes/${pid}/kill`).then(() => `Ended ${pid}.`));
    again();
  };
  const rows = data ? [...data.sandboxes, ...data.spares] : [];
  return (
    <section>
      <h2>Processes</h2>
      <Problem error={error} />
      <Came state={state} />
      <Table label="Processes" empty={data ? 'No process lives.' : 'Loading …'}
        head={['App', '#Process', 'State', '#Memory', '#CPU', '#Runs', '#Age', '']}>
        {rows.map((one) => (
          <tr key={one.pid}>
            <td>{one.app ? <Link href={appPath(one.app)}>{one.app}</Link>
              : <span class="dim">spare</span>}</td>
            <td class="n">{one.pid}</td>
            <td>{one.state}</td>
            <td class="n">{size(one.rss)}</td>
            <td class="n">{duration(one.cpu)}</td>
            <td class="n">{count(one.runs)}</td>
            <td class="n">{duration(one.age)}</td>
            <td>{one.app && <button onClick={() => end(one)}>
              End<span class="unseen"> process {one.pid}</span></button>}</td>
          </tr>
        ))}
      </Table>
      <p class="dim"><code>jsbox ps</code></p>
    </section>
  );
}
