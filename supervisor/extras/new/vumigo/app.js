// A USSD menu. docs/toolkit.md of jsbox has recipes for the toolkit; all of it is in
// https://vumi-jssandbox-toolkit.readthedocs.io/

var vumigo = require('vumigo_v02');

var App = vumigo.App;
var Choice = vumigo.states.Choice;
var ChoiceState = vumigo.states.ChoiceState;
var FreeText = vumigo.states.FreeText;
var EndState = vumigo.states.EndState;

var MyApp = App.extend(function (self) {
    App.call(self, 'states:start');
    var $ = self.$;                          // texts that can be translated

    self.states.add('states:start', function (name) {
        return new ChoiceState(name, {
            question: $('Welcome to {{title}}.').context({title: self.im.config.title}),
            error: $('That is not one of the choices.'),
            choices: [
                new Choice('states:name', $('Register')),
                new Choice('states:language', $('Language')),
                new Choice('states:bye', $('Exit'))],
            next: function (choice) { return choice.value; }
        });
    });

    self.states.add('states:language', function (name) {
        return new ChoiceState(name, {
            question: $('Which language?'),
            choices: [new Choice('en', 'English'), new Choice('af', 'Afrikaans')],
            next: function (choice) {
                return self.im.user.set_lang(choice.value)
                    .then(function () { return 'states:start'; });
            }
        });
    });

    self.states.add('states:name', function (name) {
        return new FreeText(name, {
            question: $('What is your name?'),
            check: function (content) {
                if (!content.trim()) return $('Please type your name.');
            },
            next: 'states:registered'
        });
    });

    self.states.add('states:registered', function (name) {
        return new EndState(name, {
            text: $('Thank you, {{name}}.').context({name: self.im.user.answers['states:name']}),
            next: 'states:start'
        });
    });

    self.states.add('states:bye', function (name) {
        return new EndState(name, {text: $('Goodbye.'), next: 'states:start'});
    });
});

vumigo.interact(this.api, MyApp);
