// The time line of a run, as bars.

import { Link } from 'wouter-preact';
import { useData } from './api.js';
import { duration, word } from './format.js';
import { Outcome, Problem, Time } from './parts.jsx';
import { Said } from './said.jsx';

const ms = (value) => duration(value / 1000);

function Bar({ at, length, total, tone }) {
  const style = {
    insetInlineStart: `${Math.min((at / total) * 100, 99.5)}%`,
    inlineSize: `${Math.max(Math.min((length / total) * 100, 100), 0.5)}%`,
  };
  return <span class="bar" aria-hidden="true"><i class={tone} style={style} /></span>;
}

function rowsOf({ ms: { queue, held, boot, run }, steps }) {
  const start = queue + held + boot;
  return [
    { name: 'queue', at: 0, took: queue, tone: 'waits' },
    ...(held ? [{ name: 'held back', at: queue, took: held, tone: 'failed' }] : []),
    { name: 'boot', at: queue + held, took: boot, tone: 'waits' },
    { name: 'run', at: start, took: run, tone: 'runs' },
    ...steps.map((step) => ({
      name: step.name, at: start + step.at_ms, took: step.ms, note: step.note,
      why: ['ok', ''].includes(step.outcome) ? '' : step.outcome,
      tone: ['ok', ''].includes(step.outcome) ? 'step' : 'failed',
    })),
  ];
}

export function TimeLine({ message, close }) {
  const { data, error, isOther } = useData(`/v1/traces/${encodeURIComponent(message)}`);
  const shown = isOther ? null : data;
  const total = shown && Math.max(shown.ms.total, 0.001);
  return (
    <aside aria-label="The run">
      <p class="row end"><Link href={close} replace>Close</Link></p>
      <h2 class="id"><Said text={message} /></h2>
      <Problem error={error} />
      {shown && (
        <>
          <p class="row">
            <Outcome outcome={shown.outcome} /> <span>{ms(shown.ms.total)}</span>
            <Time at={shown.began} />
            <span>process {shown.pid || 'none'}</span>
            {shown.user && <span>user <Said text={shown.user} /></span>}
            <span>channel {shown.channel}</span>
          </p>
          {shown.detail && <div class="problem bad"><Said text={shown.detail} lines /></div>}
          <ol class="timeline">
            {rowsOf(shown).map(({ name, at, took, note, why, tone }, index) => (
              <li key={index}>
                <span class="name">{name}</span>
                <Bar at={at} length={took ?? total - at} total={total} tone={tone} />
                <span class="n">{took === null ? 'no reply' : ms(took)}</span>
                {(note || why) && (
                  <span class="note"><Said text={note} />
                    {' '}{why && <b class="bad"><Said text={why} /></b>}</span>
                )}
              </li>
            ))}
          </ol>
          {shown.left_out > 0 && <p class="dim">{shown.left_out} further commands are not kept.</p>}
          <p class="dim"><code><Said text={`jsbox trace ${word(message)}`} /></code></p>
        </>
      )}
    </aside>
  );
}
