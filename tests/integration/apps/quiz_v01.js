// vumigo_v01, in the style of its time: `var api`, a state creator, api.im, the
// user's answers kept by the toolkit.
var vumigo = require("vumigo_v01");
var jed = require("jed");

if (typeof api === "undefined") {
    // testing hook (supplies api when it is not passed in by the real sandbox)
    var api = this.api = new vumigo.dummy_api.DummyApi();
}

var Promise = vumigo.promise.Promise;
var success = vumigo.promise.success;
var FreeText = vumigo.states.FreeText;
var ChoiceState = vumigo.states.ChoiceState;
var Choice = vumigo.states.Choice;
var EndState = vumigo.states.EndState;
var InteractionMachine = vumigo.state_machine.InteractionMachine;
var StateCreator = vumigo.state_machine.StateCreator;

function Quiz() {
    var self = this;
    StateCreator.call(self, "first");

    self.add_state(new ChoiceState(
        "first",
        function (choice) { return choice.value === "right" ? "name" : "first"; },
        "Capital of Botswana?",
        [new Choice("wrong", "Windhoek"), new Choice("right", "Gaborone")]
    ));

    self.add_state(new FreeText("name", "stored", "Right! Your name?"));

    self.add_creator("stored", function (state_name, im) {
        var p = im.api_request("kv.incr", {key: "quiz.finished"});
        p.add_callback(function (reply) {
            return new EndState(state_name,
                im.get_user_answer("name") + ", you are number " + reply.value + ".", "first");
        });
        return p;
    });
}

var im = new InteractionMachine(api, new Quiz());
im.attach();
