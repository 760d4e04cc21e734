// The console: a client of the admin port, like the commands. Each page has its URL.

import { render } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { Link, Route, Switch, useLocation } from 'wouter-preact';
import 'uplot/dist/uPlot.min.css';
import './style.css';
import './parts.css';
import './pages.css';
import { useData } from './api.js';
import { App } from './app.jsx';
import { Audit } from './audit.jsx';
import { Boundary } from './boundary.jsx';
import { Channel, Channels } from './channels.jsx';
import { Config } from './config.jsx';
import { Contact, Contacts, Groups, OptOuts } from './contacts.jsx';
import { DeadLetter, DeadLetters } from './deadletters.jsx';
import { Hosts } from './hosts.jsx';
import { Overview } from './overview.jsx';
import { ServerChoice } from './servers.jsx';
import { SureDialog, TokenDialog } from './parts.jsx';
import { Said } from './said.jsx';

const PAGES = [
  ['/', 'Overview'],
  ['/ui/channels', 'Channels'],
  ['/ui/deadletters', 'Dead letters'],
  ['/ui/contacts', 'Contacts'],
  ['/ui/groups', 'Groups'],
  ['/ui/optouts', 'Opt-outs'],
  ['/ui/hosts', 'Hosts'],
  ['/ui/config', 'Config'],
  ['/ui/audit', 'Audit'],
];

function Nav() {
  const [location] = useLocation();
  const isHere = (path) => (
    path === '/' ? location === '/' || location.startsWith('/ui/apps') : location.startsWith(path));
  return (
    <nav aria-label="Pages">
      {PAGES.map(([path, text]) => (
        <Link key={path} href={path} aria-current={isHere(path) ? 'page' : undefined}>{text}</Link>
      ))}
    </nav>
  );
}

// Whether the server answers at all; what is wrong is on the overview.
function Version() {
  const { data, error } = useData('/v1/info', 10000);
  if (error?.body?.standby) return <span class="warn" role="status">stands by</span>;
  if (error) {
    return <span class="bad" role="alert"><Said text={`no answer: ${error.message}`} /></span>;
  }
  return <span class="dim">{data && `${data.version} ${data.commit}`}</span>;
}

const NoPage = () => <section><h1>No such page</h1><Link href="/">Overview</Link></section>;

function Shell() {
  const [location] = useLocation();
  const main = useRef(null), first = useRef(true);
  useEffect(() => {
    const heading = main.current.querySelector('h1')?.textContent;
    document.title = heading && location !== '/' ? `${heading} · jsbox` : 'jsbox';
    // A reader of the screen is told that the page has changed; the first page needs no telling.
    if (!first.current) main.current.focus({ preventScroll: true });
    first.current = false;
    // A tab of an app is no other page: what is looked at stays where it is.
  }, [location.split('/').slice(0, 4).join('/')]);
  return (
    <>
      <a class="skip" href="#main">Skip to the page</a>
      <header>
        <Link href="/" class="brand">jsbox</Link>
        <Nav />
        <ServerChoice />
        <Version />
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        <Boundary at={location}>
          <Switch>
            <Route path="/" component={Overview} />
            <Route path="/ui/apps/:app/:tab?">
              {({ app, tab }) => <App key={app} name={app} tab={tab ?? 'runs'} />}
            </Route>
            <Route path="/ui/channels" component={Channels} />
            <Route path="/ui/channels/:name">
              {({ name }) => <Channel key={name} name={name} />}
            </Route>
            <Route path="/ui/audit" component={Audit} />
            <Route path="/ui/deadletters" component={DeadLetters} />
            <Route path="/ui/deadletters/*">{(found) => <DeadLetter id={found['*']} />}</Route>
            <Route path="/ui/contacts" component={Contacts} />
            <Route path="/ui/contacts/:account/*">
              {(found) => <Contact account={found.account} id={found['*']} />}
            </Route>
            <Route path="/ui/groups" component={Groups} />
            <Route path="/ui/optouts" component={OptOuts} />
            <Route path="/ui/hosts" component={Hosts} />
            <Route path="/ui/config" component={Config} />
            <Route component={NoPage} />
          </Switch>
        </Boundary>
      </main>
      <footer class="dim"><a href="/licences.txt">Licences</a></footer>
      <TokenDialog />
      <SureDialog />
    </>
  );
}

render(<Shell />, document.body);
