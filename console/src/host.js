// Which of the servers that share the work answers: the one that the page is from, or another one
// that somebody has chosen in this tab.

const KEPT = 'host';  // in the session's storage

// What each server has of its own; all else is the same on every one (supervisor/admin/elsewhere).
const OF_ONE_HOST = new RegExp('^/v1/(info|apps|overview|host|channels|sandboxes|reload|audit'
  + '|traces(/.*)?|apps/[^/]+/(limits|figures)|sandboxes/[^/]+/kill)$');

export const chosenHost = () => sessionStorage.getItem(KEPT);

export function chooseHost(id) {
  if (id === null) sessionStorage.removeItem(KEPT);
  else sessionStorage.setItem(KEPT, id);
}

// The path that has the chosen server answer.
export function atHost(path) {
  const host = chosenHost();
  const [name, query] = path.split('?');
  if (!host || !OF_ONE_HOST.test(name)) return path;
  return `${path}${query === undefined ? '?' : '&'}host=${encodeURIComponent(host)}`;
}
