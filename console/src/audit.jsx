// What operators did.

import { useCallback } from 'preact/hooks';
import { useSearchParams } from 'wouter-preact';
import { get, url } from './api.js';
import { More, Problem, Table, Time, useNewest } from './parts.jsx';
import { Said } from './said.jsx';

const PAGE = 200;

function useDeeds(who) {
  const path = url(['v1', 'audit'], { limit: PAGE, who });
  const load = useCallback(async (cursor) => {
    const more = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await get(path + more);
    return { rows: page.deeds, cursor: page.cursor };
  }, [path]);
  return useNewest(load, PAGE, 10000);
}

export function Audit() {
  const [search, setSearch] = useSearchParams();
  const who = search.get('who') ?? '';
  const pages = useDeeds(who);
  const submitted = (event) => {
    event.preventDefault();
    const asked = new FormData(event.currentTarget).get('who').trim();
    setSearch(asked ? { who: asked } : {});
  };
  return (
    <>
      <h1>Audit</h1>
      <p class="dim">What operators did, by the name of their token.</p>
      <form class="filters" onSubmit={submitted} aria-label="Filter the deeds">
        <label>Who <input name="who" defaultValue={who} key={who} size="16" /></label>
        <button>Filter</button>
      </form>
      <Problem error={pages.error} />
      <Table label="Deeds" empty={pages.isBusy ? 'Loading …' : 'There are none.'}
        head={['Time', 'Who', 'From', 'What', '#Status', 'Result']}>
        {pages.rows.map((one) => (one.lost === undefined ? (
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
      <More pages={pages} />
    </>
  );
}
