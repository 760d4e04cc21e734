// Channels, and what waits in their outboxes.

import { useCallback } from 'preact/hooks';
import { Link, useSearchParams } from 'wouter-preact';
import { get, remove, url, useAction, useData } from './api.js';
import { ago, count, size } from './format.js';
import { Came, More, Problem, State, Table, Time, appPath, sure, usePages } from './parts.jsx';
import { Said } from './said.jsx';

const channelPath = (name) => `/ui/channels/${encodeURIComponent(name)}`;

export function Channels() {
  const channels = useData('/v1/channels', 3000);
  const outboxes = useData('/v1/outbox', 5000);
  const waiting = new Map((outboxes.data?.outboxes ?? []).map((one) => [one.channel, one]));
  return (
    <>
      <h1>Channels</h1>
      <Problem error={channels.error ?? outboxes.error} />
      <Table label="Channels" empty={channels.data ? 'The config has no channels.' : 'Loading …'}
        head={['Channel', 'Type', 'App', 'State', '#Connections', '#Unacknowledged', '#Waiting',
          '#Bytes', 'Oldest']}>
        {(channels.data?.channels ?? []).map((one) => {
          const box = waiting.get(one.name);
          return (
            <tr key={one.name}>
              <th scope="row"><Link href={channelPath(one.name)}>{one.name}</Link></th>
              <td>{one.type}</td>
              <td>{one.app && <Link href={appPath(one.app)}>{one.app}</Link>}</td>
              <td><State state={one.state} /> <Said text={one.problem} />
                {one.refused && <span class="warn"><Said text={one.refused} /></span>}</td>
              <td class="n">{count(one.connections)}</td>
              <td class="n">{count(one.unacked)}</td>
              <td class={box?.count ? 'n warn' : 'n'}>{count(box?.count)}</td>
              <td class="n">{box?.count ? size(box.bytes) : ''}</td>
              <td>{box?.oldest && <Time at={box.oldest} isAgo />}</td>
            </tr>
          );
        })}
      </Table>
      <p class="dim"><code>jsbox outbox</code></p>
    </>
  );
}

export function Channel({ name }) {
  const [search] = useSearchParams();
  const shown = search.get('message');
  const { data } = useData('/v1/channels', 3000);
  const one = data?.channels.find((channel) => channel.name === name);
  const path = url(['v1', 'outbox', name], { limit: 100 });
  const load = useCallback(async (cursor) => {
    const page = await get(cursor === null ? path : `${path}&cursor=${cursor}`);
    return { rows: page.messages, cursor: page.cursor };
  }, [path]);
  const pages = usePages(load);
  const [state, run] = useAction();
  const drop = async ({ delivery }) => {
    const text = `Drop message ${delivery}? The user never gets it, unless a client has sent it.`;
    if (!await sure(text, 'Drop it')) return;
    await run(async () => {
      await remove(url(['v1', 'outbox', name, String(delivery)]));
      pages.drop((row) => row.delivery === delivery);
      return `Dropped ${delivery}.`;
    });
  };
  return (
    <>
      <h1>Channel <Said text={name} /></h1>
      {data && !one && <p class="bad" role="alert">There is no such channel in the config.</p>}
      {one && (
        <p class="row"><State state={one.state} /> <Said text={one.problem} />
          <span>type {one.type}</span><span>{one.connections} connected</span>
          <span>{one.unacked} unacknowledged</span></p>
      )}
      <h2>Outbox, oldest first</h2>
      <Problem error={pages.error} />
      <Came state={state} />
      <div class={shown ? 'beside' : ''}>
        <div>
          <Table label="Outbox" empty={pages.isBusy ? 'Loading …' : 'Nothing waits.'}
            head={['#Number', 'Made', 'To', '#Attempts', '#Bytes', 'Session', '']}>
            {pages.rows.map((row) => (
              <tr key={row.delivery} class={String(row.delivery) === shown ? 'on' : ''}>
                <td class="n"><Link href={`${channelPath(name)}?message=${row.delivery}`} replace>
                  {row.delivery}</Link></td>
                <td title={row.timestamp}>
                  {row.timestamp && ago(`${row.timestamp.replace(' ', 'T')}Z`)}
                </td>
                <td><Said text={row.to_addr} /></td>
                <td class="n">{row.attempts}</td>
                <td class="n">{row.bytes}</td>
                <td>{row.session_event}</td>
                <td><button onClick={() => drop(row)}>
                  Drop<span class="unseen"> {row.delivery}</span></button></td>
              </tr>
            ))}
          </Table>
          <More pages={pages} />
        </div>
        {shown && <Message name={name} delivery={shown} />}
      </div>
    </>
  );
}

function Message({ name, delivery }) {
  const { data, error, isOther } = useData(url(['v1', 'outbox', name, delivery]));
  return (
    <aside aria-label="The message">
      <p class="row end"><Link href={channelPath(name)} replace>Close</Link></p>
      <h2>Message {delivery}</h2>
      <Problem error={error} />
      {data && !isOther && (
        <pre tabIndex={0}><Said text={JSON.stringify(data.message, null, 2)} lines /></pre>)}
    </aside>
  );
}
