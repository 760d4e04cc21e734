// What the app keeps of a user: where vumigo's toolkit has them, and the keys that the newest runs
// used.

import { Problem } from './parts.jsx';
import { Said } from './said.jsx';

const isUser = ({ key, value }, number) => (
  key.startsWith('users.') && key.endsWith(`.${number}`) && typeof value === 'object' && value);

function User({ value }) {
  const answers = Object.entries(value.answers ?? {});
  return (
    <dl class="facts">
      <dt>State</dt><dd><Said text={value.state?.name ?? 'none'} /></dd>
      <dt>Language</dt><dd><Said text={value.lang ?? 'none'} /></dd>
      {answers.map(([asked, answer]) => (
        <><dt>answer <Said text={asked} /></dt><dd><Said text={answer} /></dd></>
      ))}
    </dl>
  );
}

export function State({ kept, number }) {
  const user = kept.values.find((one) => isUser(one, number));
  return (
    <>
      <h2>State</h2>
      <Problem error={kept.error} />
      {user ? <User value={user.value} />
        : <p class="dim">The toolkit keeps nothing of this number.</p>}
      <h2>Keys of the newest runs</h2>
      {kept.values.length === 0 && <p class="dim">none</p>}
      {kept.values.map(({ key, value }) => (
        <details key={key}>
          <summary><Said text={key} /></summary>
          <pre tabIndex={0}><Said text={JSON.stringify(value, null, 2)} lines /></pre>
        </details>
      ))}
    </>
  );
}
