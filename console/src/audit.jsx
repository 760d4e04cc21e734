// What operators did.

import { useSearchParams } from 'wouter-preact';
import { url, useData } from './api.js';
import { Problem, Table, Time } from './parts.jsx';
import { Said } from './said.jsx';

export function Audit() {
  const [search, setSearch] = useSearchParams();
  const who = search.get('who') ?? '';
  const { data, error } = useData(url(['v1', 'audit'], { limit: 200, who }), 10000);
  const submitted = (event) => {
    event.preventDefault();
    const asked = new FormData(event.currentTarget).get('who').trim();
    setSearch(asked ? { who: asked } : {});
  };
  return (
    <>
      <h1>Audit</h1>
      <p class="dim">What operators did, by the name of their token; the newest 200.</p>
      <form class="filters" onSubmit={submitted} aria-label="Filter the deeds">
        <label>Who <input name="who" defaultValue={who} key={who} size="16" /></label>
        <button>Filter</button>
      </form>
      <Problem error={error} />
      <Table label="Deeds" empty={data ? 'There are none.' : 'Loading …'}
        head={['Time', 'Who', 'From', 'What', '#Status', 'Result']}>
        {(data?.deeds ?? []).map((one) => (one.lost === undefined ? (
          <tr key={one.id}>
            <td><Time at={one.time} /></td>
            <td><Said text={one.who} /></td>
            <td><Said text={one.source} /></td>
            <td><Said text={one.what} /></td>
            <td class={one.status >= 400 ? 'n bad' : 'n'}>{one.status || 'not known'}</td>
            <td class="wide"><Said text={one.result} /></td>
          </tr>
        ) : (
          <tr key={one.time}>
            <td><Time at={one.time} /></td>
            <td class="bad" colSpan={5}>{one.lost} lines could not be written.</td>
          </tr>
        )))}
      </Table>
    </>
  );
}
