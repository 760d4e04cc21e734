// Lines of the last hour, drawn by uPlot; what they show is also said in words.

import uPlot from 'uplot';
import { useEffect, useRef, useState } from 'preact/hooks';

const HEIGHT = 46;

// A canvas knows neither var() nor light-dark(): the element resolves them.
function colour(name, element) {
  element.style.color = `var(${name})`;
  return getComputedStyle(element).color;
}

const time = (seconds) => new Date(seconds * 1000).toTimeString().slice(0, 5);

// The times (seconds since 1970) of the steps that end now, the oldest first.
export const timesOf = (now, step, length) => {
  const end = Math.floor(new Date(now).getTime() / 1000 / step) * step;
  return Array.from({ length }, (_, index) => end - (length - 1 - index) * step);
};

// The places of values without neighbours, to which no line leads: they are drawn as points.
function alone({ data: [, values] }) {
  return values.flatMap((value, at) => (
    value != null && values[at - 1] == null && values[at + 1] == null ? [at] : []));
}

function plot(element, data, { tone, most, isBar }) {
  const line = colour(tone, element);
  return new uPlot({
    width: element.clientWidth || 200,
    height: HEIGHT,
    pxAlign: true,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 } },
    padding: [3, 0, 1, 0],
    axes: [{ show: false }, { show: false }],
    scales: {
      x: { time: false },
      y: { range: (_, low, high) => [0, Math.max(high ?? 0, most ?? 0) || 1] },
    },
    series: [{}, {
      stroke: line,
      fill: isBar ? line : colour(`${tone}-wash`, element),
      width: 1.25,
      points: { size: 4, fill: line, filter: alone },
      spanGaps: false,
      paths: isBar ? uPlot.paths.bars({ size: [1, 20] }) : undefined,
    }],
  }, data, element);
}

// `values`: of each step, null where there is none; `show`: a value in words.
export function Line({ label, times, values, show, tone = '--accent', most, isBar = false }) {
  const place = useRef(null), made = useRef(null);
  const [at, setAt] = useState(null);
  const data = useRef(null);
  const drawn = isBar ? values.map((value) => value || null) : values;  // 0: no bar
  data.current = [times, drawn];
  useEffect(() => {
    const element = place.current;
    const draw = () => {
      made.current?.destroy();
      made.current = plot(element, data.current, { tone, most, isBar });
      made.current.setCursor({ left: -10, top: -10 });
      made.current.over.addEventListener('mousemove', () => setAt(made.current.cursor.idx));
      made.current.over.addEventListener('mouseleave', () => setAt(null));
    };
    draw();
    const sizes = new ResizeObserver(() => {
      made.current.setSize({ width: element.clientWidth || 200, height: HEIGHT });
    });
    sizes.observe(element);
    const dark = matchMedia('(prefers-color-scheme: dark)');
    dark.addEventListener('change', draw);
    return () => {
      sizes.disconnect();
      dark.removeEventListener('change', draw);
      made.current.destroy();
    };
  }, [tone, most, isBar]);
  useEffect(() => { made.current?.setData(data.current); }, [times, values]);
  const known = values.filter((value) => value != null);
  const highest = known.length ? show(Math.max(...known)) : 'none';
  return (
    <div class="line">
      <div class="plot" ref={place} role="img"
        aria-label={`${label}, the last hour: ${highest} at most`} />
      <p class="reading" aria-hidden="true">
        {at == null ? `most ${highest}`
          : `${time(times[at])}  ${values[at] == null ? '–' : show(values[at])}`}
      </p>
    </div>
  );
}
