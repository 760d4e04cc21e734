// An SMS app on vumigo_v02: a message in, an answer to the sender, and a copy to somebody else
// over another endpoint.
var vumigo = require('vumigo_v02');

var App = vumigo.App;
var EndState = vumigo.states.EndState;

var SmsApp = App.extend(function (self) {
    App.call(self, 'states:start');

    self.states.add('states:start', function (name) {
        var content = self.im.msg.content || '';
        return self.im.outbound
            .send_to_user({endpoint: 'sms', content: 'copy of: ' + content})
            .then(function () {
                return self.im.outbound.send({
                    endpoint: 'sms', to: '+27820000000', content: 'supervisor: ' + content
                });
            })
            .then(function () {
                return new EndState(name, {text: 'got: ' + content, next: 'states:start'});
            });
    });
});

vumigo.interact(this.api, SmsApp);
