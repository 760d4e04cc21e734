// The sample app of `jsbox demo`: a clinic's USSD menu on vumigo_v02.
//
// It shows what most apps do: a menu, a free-text question, an answer kept in the key-value store
// for the next session, a wrong choice, an HTTP call to a back end, a closing screen.

var vumigo = require('vumigo_v02');

var App = vumigo.App;
var Choice = vumigo.states.Choice;
var ChoiceState = vumigo.states.ChoiceState;
var FreeText = vumigo.states.FreeText;
var EndState = vumigo.states.EndState;
var JsonApi = vumigo.http.api.JsonApi;

var ClinicApp = App.extend(function (self) {
    App.call(self, 'states:welcome');
    var $ = self.$;

    self.init = function () {
        self.http = new JsonApi(self.im);
        return self.im
            .api_request('kv.get', {key: 'people.' + self.im.user.addr})
            .then(function (reply) { self.person = reply.value; });
    };

    self.states.add('states:welcome', function (name) {
        var greeting = self.person
            ? $('Welcome back, {{name}}!').context({name: self.person.name})
            : $('Welcome to {{clinic}}.').context({clinic: self.im.config.clinic});
        return new ChoiceState(name, {
            question: greeting,
            error: $('That is not one of the choices.'),
            choices: [
                new Choice('states:name', $('Register')),
                new Choice('states:town', $('Find a clinic')),
                new Choice('states:bye', $('Exit'))],
            next: function (choice) { return choice.value; }
        });
    });

    self.states.add('states:name', function (name) {
        return new FreeText(name, {
            question: $('What is your name?'),
            check: function (content) {
                if (!content.trim()) return $('Please type your name.');
            },
            next: function (content) {
                return self.im
                    .api_request('kv.set', {
                        key: 'people.' + self.im.user.addr,
                        value: {name: content.trim()},
                        seconds: 604800})
                    .then(function () { return self.im.metrics.fire.inc('registrations'); })
                    .then(function () { return 'states:registered'; });
            }
        });
    });

    self.states.add('states:registered', function (name) {
        return new EndState(name, {
            text: $('Thank you, {{name}}. We will remember you.')
                .context({name: self.im.user.answers['states:name'].trim()}),
            next: 'states:welcome'
        });
    });

    self.states.add('states:town', function (name) {
        return new FreeText(name, {
            question: $('Which town are you in?'),
            next: 'states:clinic'
        });
    });

    self.states.add('states:clinic', function (name) {
        var town = self.im.user.answers['states:town'];
        return self.http
            .get('http://clinics.example.org/nearest', {params: {town: town}})
            .then(function (response) {
                return new EndState(name, {
                    text: $('{{name}}, {{street}}. Open until {{closes}}.').context(response.data),
                    next: 'states:welcome'
                });
            });
    });

    self.states.add('states:bye', function (name) {
        return new EndState(name, {text: $('Goodbye.'), next: 'states:welcome'});
    });
});

vumigo.interact(this.api, ClinicApp);
