// An app's limits, how near its runs came to them, and what others would have meant.

import { useState } from 'preact/hooks';
import { useSearchParams } from 'wouter-preact';
import { useData } from './api.js';
import { limitText, percent } from './format.js';
import { Problem, Table } from './parts.jsx';

function Use({ name, value, seen }) {
  if (!seen) return null;
  const parts = [['p50', seen.p50], ['p99', seen.p99], ['most', seen.most]];
  const text = parts.map(([part, used]) => `${part} ${limitText(name, used)}`).join(', ');
  const at = (used) => `${Math.min((used / value) * 100, 100)}%`;
  const tone = seen.most / value > 0.8 ? 'near' : '';
  return (
    <span class={`use ${tone}`} role="img" aria-label={text}
      title={`${text} of ${seen.count} runs`}>
      <i class="most" style={{ inlineSize: at(seen.most) }} />
      <i class="p99" style={{ inlineSize: at(seen.p99) }} />
      <i class="p50" style={{ inlineSize: at(seen.p50) }} />
    </span>
  );
}

function WhatIf({ found }) {
  const each = Object.entries(found.limits);
  return (
    <div class="problem" role="status">
      <p>{found.runs.over} of {found.runs.of} runs would have been cut off.</p>
      <ul>
        {each.map(([name, one]) => (
          <li key={name} class={one.over ? 'bad' : 'good'}>
            {name} {limitText(name, one.value)}: {one.over} of {one.of} used more
          </li>
        ))}
      </ul>
    </div>
  );
}

export function Limits({ app }) {
  const [search, setSearch] = useSearchParams();
  const what = search.get('what') ?? '';
  const [typed, setTyped] = useState(what);
  const asked = what.trim().split(/\s+/).filter(Boolean)
    .map((text) => `what_if=${encodeURIComponent(text)}`).join('&');
  const path = `/v1/apps/${encodeURIComponent(app.name)}/limits`;
  const limits = useData(path, 5000);
  const whatIf = useData(asked ? `${path}?${asked}` : null);
  const submitted = (event) => {
    event.preventDefault();
    setSearch(typed.trim() ? { what: typed.trim() } : {});
  };
  return (
    <>
      <form class="filters" onSubmit={submitted}>
        <label>What if the limits were
          <input name="what" value={typed} size="28" placeholder="wall=5s heap=32MiB"
            onInput={(event) => setTyped(event.target.value)} /></label>
        <button>What if?</button>
      </form>
      {asked && <Problem error={whatIf.error} />}
      {asked && !whatIf.isOther && !whatIf.error && whatIf.data?.what_if
        && <WhatIf found={whatIf.data.what_if} />}
      <Problem error={limits.error} />
      <Table label="Limits" empty="Loading …"
        head={['Limit', '#Value', 'Use', '#p50', '#p99', '#Most', '#Of it']}>
        {(limits.data?.limits ?? []).map(({ name, value, seen }) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            <td class="n">{limitText(name, value)}</td>
            <td class="wide"><Use name={name} value={value} seen={seen} /></td>
            <td class="n">{limitText(name, seen?.p50)}</td>
            <td class="n">{limitText(name, seen?.p99)}</td>
            <td class="n">{limitText(name, seen?.most)}</td>
            <td class={seen && seen.most / value > 0.8 ? 'n warn' : 'n'}>
              {seen && percent(seen.most / value)}
            </td>
          </tr>
        ))}
      </Table>
      <p class="dim"><code>jsbox limits {app.name} --explain</code></p>
    </>
  );
}
