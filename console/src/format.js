// Numbers, times and sizes for people.

export function size(bytes) {
  if (bytes == null) return '';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes, at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export function duration(seconds) {
  if (seconds == null) return '';
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${Number(seconds.toFixed(seconds < 10 ? 2 : 0))} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function percent(share) {
  if (share == null || Number.isNaN(share)) return '';
  return `${Number((share * 100).toFixed(share < 0.1 ? 1 : 0))}%`;
}

export const count = (number) => (number == null ? '' : number.toLocaleString('en'));

export function rate(perSecond) {
  if (perSecond == null) return '';
  return perSecond >= 100 ? count(Math.round(perSecond)) : String(Number(perSecond.toFixed(2)));
}

// Times are shown in the reader's zone; the machine's form is beside it, in the title.
export function clock(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return String(iso ?? '');
  const two = (number) => String(number).padStart(2, '0');
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  const milliseconds = String(time.getMilliseconds()).padStart(3, '0');
  const hours = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
  return `${day} ${hours}.${milliseconds}`;
}

export const ago = (iso, now = Date.now()) => (
  `${duration(Math.max((now - new Date(iso).getTime()) / 1000, 0))} ago`);

// A word of a command that is shown to be copied: in a shell it is no more than a word, whoever
// wrote it.
export const word = (text) => (
  /^[\w@%+=:,./][\w@%+=:,./-]*$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

const BYTES = new Set(['heap', 'memory', 'stack', 'line', 'output']);
const SECONDS = new Set(['wall', 'cpu', 'boot', 'command']);

export function limitText(name, value) {
  if (value == null) return '';
  if (BYTES.has(name)) return size(value);
  if (SECONDS.has(name) || name.endsWith('timeout')) return duration(value);
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
