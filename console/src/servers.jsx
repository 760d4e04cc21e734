// The servers that share the work: which of them the pages show, and what is wrong with the others.

import { useData } from './api.js';
import { chooseHost, chosenHost } from './host.js';
import { Link } from 'wouter-preact';
import { State, Table } from './parts.jsx';
import { Said } from './said.jsx';

// Those that live; none if the store is not shared.
export function useServers() {
  return useData('/v1/hosts', 10000).data?.hosts ?? [];
}

function shownOf(servers) {
  return servers.find((one) => (chosenHost() ? one.id === chosenHost() : one.is_this));
}

// What each shows is of one server: which, is said at the top of every page.
export function ServerChoice() {
  const servers = useServers();
  if (servers.length < 2 && !chosenHost()) return null;
  const shown = shownOf(servers);
  return (
    <label class="server">Server{' '}
      <select value={shown?.id ?? ''} onChange={(event) => choose(servers, event.target.value)}>
        {!shown && <option value="">{chosenHost()} (gone)</option>}
        {servers.map((one) => (
          <option key={one.id} value={one.id}>{one.name}{one.is_this ? ' (this)' : ''}</option>
        ))}
      </select>
    </label>
  );
}

function choose(servers, id) {
  chooseHost(servers.find((one) => one.id === id)?.is_this ? null : id);
  location.reload();  // every page asks anew
}

// What /readyz of the other servers says, a trouble for each line.
export function useOtherTroubles() {
  const isShared = useServers().length > 1;
  const { data } = useData(isShared ? '/readyz?host=all' : null, 5000);
  const shown = chosenHost();
  const others = (data?.hosts ?? []).filter((one) => (shown ? one.id !== shown : !one.is_this));
  return others.flatMap((one) => linesOf(one).map((text) => (
    { level: one.status === 200 ? 'warn' : 'bad', server: one.name, text })));
}

function linesOf({ status, answer, error }) {
  if (status === 0) return [error];
  if (typeof answer !== 'string') return [answer?.error ?? `HTTP status ${status}`];
  const lines = answer.split('\n').filter(Boolean);
  return lines.length > 1 ? lines.slice(1) : lines.filter((line) => line !== 'ok');
}

export function Servers() {
  const servers = useServers();
  if (servers.length < 2) return null;
  const shown = shownOf(servers);
  return (
    <section>
      <h2>Servers that share the work</h2>
      <Table label="Servers" head={['Server', 'State', 'Version', 'Config', 'Admin', '']}>
        {servers.map((one) => (
          <tr key={one.id}>
            <th scope="row"><Said text={one.name} />{one.is_this && ' (this)'}</th>
            <td><State state={one.state === 'serving' ? 'running' : one.state} /></td>
            <td>{one.version}</td>
            <td class={one.config === shown?.config ? '' : 'warn'}>
              {one.config === shown?.config ? 'the same' : 'another'}</td>
            <td><Said text={one.admin} /></td>
            <td>{one !== shown && <button onClick={() => choose(servers, one.id)}>
              Show<span class="unseen"> {one.name}</span></button>}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

export const OtherTrouble = ({ one }) => (
  <li class={one.level}>
    <Link href="/ui/hosts">Server {one.server}</Link> <Said text={one.text} />
  </li>);
