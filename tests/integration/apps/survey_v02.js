// vumigo_v02 with config and translations: asks for a language, then everything is in that
// language; fires metrics.
var vumigo = require('vumigo_v02');
var _ = require('lodash');
var moment = require('moment');

var App = vumigo.App;
var Choice = vumigo.states.Choice;
var ChoiceState = vumigo.states.ChoiceState;
var LanguageChoice = vumigo.states.LanguageChoice;
var PaginatedChoiceState = vumigo.states.PaginatedChoiceState;
var FreeText = vumigo.states.FreeText;
var EndState = vumigo.states.EndState;

var SurveyApp = App.extend(function (self) {
    App.call(self, 'states:language');
    var $ = self.$;

    self.init = function () {
        return self.im.on('session:new', function () {
            return self.im.metrics.fire.inc('sessions');
        });
    };

    self.states.add('states:language', function (name) {
        return new LanguageChoice(name, {
            question: 'Choose your language:',
            choices: [new Choice('en', 'English'), new Choice('af', 'Afrikaans')],
            next: 'states:age'
        });
    });

    self.states.add('states:age', function (name) {
        return new FreeText(name, {
            question: $('How old are you?'),
            check: function (content) {
                if (isNaN(parseInt(content, 10))) return $('Please give a number.');
            },
            next: 'states:town'
        });
    });

    self.states.add('states:town', function (name) {
        return new PaginatedChoiceState(name, {
            question: $('Where do you live?'),
            options_per_page: 3,
            choices: _.map(self.im.config.towns, function (town) {
                return new Choice(town, town);
            }),
            next: 'states:end'
        });
    });

    self.states.add('states:end', function (name) {
        return new EndState(name, {
            text: $('Born about {{year}} in {{town}}. Thank you!').context({
                year: moment.utc('2020-01-01').year()
                    - parseInt(self.im.user.answers['states:age'], 10),
                town: self.im.user.answers['states:town']
            }),
            next: 'states:language'
        });
    });
});

vumigo.interact(this.api, SurveyApp);
this.SurveyApp = SurveyApp;
