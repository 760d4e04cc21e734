// What a reload of the config would change, and the reload.

import { useState } from 'preact/hooks';
import { get, useData } from './api.js';
import { Problem, Table } from './parts.jsx';
import { Said } from './said.jsx';

const WHEN = {
  live: 'with the next run',
  next_process: 'in new processes',
  restart: 'after a restart of the server',
};

function Errors({ errors }) {
  return (
    <div class="problem bad" role="alert">
      <p>The config would be refused; the one in use stays:</p>
      <ul>{errors.map((text) => <li key={text}><Said text={text} lines /></li>)}</ul>
    </div>
  );
}

const NotShown = () => <span class="dim">not shown</span>;

function Changes({ changes }) {
  return (
    <Table label="Changes" empty="Nothing has changed: the config in use is that of the file."
      head={['Setting', 'In use', 'In the file', 'Takes effect']}>
      {changes.map(({ name, when, before, after }) => (
        <tr key={name}>
          <th scope="row"><Said text={name} /></th>
          <td>{before === null ? <NotShown /> : <del><Said text={before} /></del>}</td>
          <td>{after === null ? <NotShown /> : <ins><Said text={after} /></ins>}</td>
          <td class={when === 'restart' ? 'warn' : ''}>{WHEN[when]}</td>
        </tr>
      ))}
    </Table>
  );
}

function resultText(result) {
  const all = ['live', 'next_process', 'restart'].flatMap((kind) => (
    result[kind].map((name) => `${name} (${WHEN[kind]})`)));
  return all.length ? `Reloaded: ${all.join(', ')}.` : 'Reloaded: nothing has changed.';
}

export function Config() {
  const preview = useData('/v1/reload');
  const [result, setResult] = useState(null);
  const errors = preview.error?.body?.errors;
  const reload = async () => {
    setResult({ text: '…' });
    try {
      setResult({ text: resultText(await get('/v1/reload', { method: 'POST' })) });
    } catch (error) {
      setResult({ text: error.message, isBad: true });
    }
    preview.again();
  };
  return (
    <>
      <h1>Config</h1>
      <p class="row">
        <button onClick={preview.again}>Read the file again</button>
        <button class="main" onClick={reload} disabled={!preview.data || Boolean(preview.error)}>
          Reload</button>
        <output class={result?.isBad ? 'bad' : 'good'}><Said text={result?.text} /></output>
      </p>
      {errors ? <Errors errors={errors} /> : <Problem error={preview.error} />}
      {!preview.error && preview.data && <Changes changes={preview.data.changes} />}
      {!preview.error && !preview.data && <p class="dim">Reading and checking the config …</p>}
      {(preview.data?.warnings ?? []).map((text) => (
        <p key={text} class="warn"><Said text={text} /></p>
      ))}
      <p class="dim">Texts that may be secrets are not shown. <code>jsbox reload</code></p>
    </>
  );
}
