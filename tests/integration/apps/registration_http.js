// vumigo_v02 with two HTTP back ends, one asked before the first screen, one told at the
// end; and what it does when one is down.
var vumigo = require('vumigo_v02');
var Q = require('q');

var App = vumigo.App;
var FreeText = vumigo.states.FreeText;
var EndState = vumigo.states.EndState;
var JsonApi = vumigo.http.api.JsonApi;
var HttpApi = vumigo.http.api.HttpApi;

var RegistrationApp = App.extend(function (self) {
    App.call(self, 'states:start');

    self.init = function () {
        self.hub = new JsonApi(self.im, {
            headers: {Authorization: ['Token ' + self.im.config.hub_token]}
        });
        self.plain = new HttpApi(self.im);
    };

    self.states.add('states:start', function (name) {
        return self.hub
            .get('http://hub.example.org/echo', {params: {msisdn: self.im.user.addr}})
            .then(function (response) {
                return new FreeText(name, {
                    question: 'Registering ' + response.data.query
                        + ' with ' + response.data.headers.authorization + '. Name?',
                    next: 'states:save'
                });
            });
    });

    self.states.add('states:save', function (name) {
        return Q.all([
            self.hub.post('http://hub.example.org/echo', {
                data: {name: self.im.user.answers['states:start']}
            }),
            self.plain.put('http://store.example.org:8080/echo', {data: 'raw'})
        ]).spread(function (hub, store) {
            return new EndState(name, {
                text: hub.data.body + ' ' + JSON.parse(store.body).method,
                next: 'states:start'
            });
        }).catch(function (error) {
            return new EndState(name, {
                text: 'Sorry: ' + (error.response ? error.response.code : error.reason),
                next: 'states:start'
            });
        });
    });
});

vumigo.interact(this.api, RegistrationApp);
