// Text that an app, a user or another machine wrote. It is only ever text; its direction is its own
// (bdi), and characters that cannot be seen, or would turn others round, are shown by their number.

const HIDDEN = new RegExp(
  '[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f'
  + '\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]|[\\u{e0000}-\\u{e007f}]'
  + '|[\\ud800-\\udfff]', 'gu');

const number = (character) => (
  `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`);

function parts(text) {
  const found = [];
  let from = 0;
  for (const hit of text.matchAll(HIDDEN)) {
    if (hit.index > from) found.push(text.slice(from, hit.index));
    found.push(<span class="hidden-character" key={hit.index}>{number(hit[0])}</span>);
    from = hit.index + hit[0].length;
  }
  found.push(text.slice(from));
  return found;
}

// `lines`: line breaks break lines; else they are shown, since they could forge an entry.
export function Said({ text, lines = false }) {
  if (text == null || text === '') return null;
  const whole = typeof text === 'string' ? text : JSON.stringify(text);
  const shown = lines ? whole.replace(/\r\n/g, '\n') : whole.replace(/\r?\n/g, '↵ ');
  return <bdi dir="auto" class={lines ? 'said lines' : 'said'}>{parts(shown)}</bdi>;
}
