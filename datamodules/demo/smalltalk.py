"""The rest of a review: verdicts of five levels, and everything that says nothing about the profile."""

from __future__ import annotations

SLOTS: dict[str, tuple[str, ...]] = {
    "dish": ("soup", "noodle bowl", "dumpling plate", "curry", "taco plate", "grilled chicken", "rice bowl", "stew", "fried fish",
             "lasagne", "ravioli", "chili", "lentil soup", "burger", "falafel wrap", "salad", "stir fry", "house special"),
    "friend": ("sister", "brother", "friend", "neighbour", "cousin", "colleague", "roommate", "old classmate", "buddy"),
    "relative": ("uncle", "aunt", "brother", "sister in law", "cousin", "neighbour", "nephew"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "rainy day", "holiday", "windy day"),
    "minutes": ("five", "ten", "fifteen", "twenty", "twenty five"),
    "colour": ("green", "mustard", "blue", "red", "grey", "teal", "off-white"),
    "music": ("jazz", "the radio", "old soul records", "country", "soft piano", "eighties pop"),
    "aspect": ("{dish}", "service", "food", "sauce", "seasoning", "{dish}", "whole visit", "{dish}", "cooking", "kitchen's work"),
}

# level -> adjectives for "the {aspect} was ..."; "12" is heard from one-star and two-star guests alike, and so on.
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "1": ("awful", "horrible", "terrible", "a disgrace", "appalling", "the worst I have had", "dreadful", "revolting", "shameful", "a disaster"),
    "12": ("bad", "pretty bad", "poor", "a let down", "not good at all"),
    "2": ("disappointing", "below par", "lacklustre", "rather poor", "underwhelming", "a bit sad", "weak", "mediocre at best", "sloppy", "not great"),
    "23": ("hit and miss", "meh", "uneven", "not quite there", "a little flat"),
    "3": ("fine", "okay", "average", "decent enough", "nothing special", "acceptable", "so-so", "passable", "middling", "neither good nor bad"),
    "34": ("pretty decent", "pleasant", "fairly good", "not bad at all", "quite nice"),
    "4": ("very good", "really nice", "solid", "lovely", "well done", "better than expected", "a pleasure", "carefully done", "good"),
    "45": ("great", "excellent", "fantastic", "wonderful", "a treat"),
    "5": ("perfect", "outstanding", "incredible", "flawless", "superb", "out of this world", "spectacular", "the best in town", "phenomenal", "magical"),
}
VERDICTS: dict[str, tuple[str, ...]] = {
    "1": ("I will never set foot in here again.", "Avoid at all costs.", "Zero stars if I could.", "I want my money back.", "I left hungry and angry.",
          "Stay away, seriously.", "They ruined our day and did not even apologise.", "I got sick the same night.", "How is this place still open?",
          "My {dish} came back cold twice and then with a hair in it.", "The {dish} went straight into the bin.", "Never, ever again.",
          "I have had better {dish} from a can."),
    "12": ("I do not think we will be back.", "I would not send anyone here.", "Much room to improve.", "Not worth the trip.", "We regretted coming."),
    "2": ("I expected more.", "There are better places nearby.", "The {dish} was bland and lukewarm.", "It could have been so much better.",
          "I was let down, sadly.", "They forgot half our order and shrugged.", "The {dish} needed salt, heat and love.", "Probably not going back.",
          "I wanted to like it, but no.", "Two stars because the {dish} was edible.", "The {dish} had seen better days.", "We left a bit disappointed."),
    "23": ("I am on the fence.", "Some of it worked, some of it did not.", "Maybe they had an off day.", "I might give it another chance."),
    "3": ("It does the job.", "Not bad, not memorable.", "Middle of the road.", "Would come again if I happened to be near.", "It was okay, nothing more.",
          "An average {dish} on an average day.", "I have had better and I have had worse.", "It fills you up.", "No complaints, no cheers.",
          "Three stars feels right.", "You get what you expect.", "The {dish} was all right."),
    "34": ("I would come back.", "On the whole we were content.", "It grew on me.", "A decent choice, all told."),
    "4": ("I will be back.", "We really enjoyed it.", "Just short of perfect.", "Happy to recommend it.", "A reliable favourite of ours.",
          "One small hiccup, otherwise a fine visit.", "The {dish} had real flavour.", "Almost everything was spot on.", "Left with a smile.",
          "The {dish} was really well seasoned.", "They know what they are doing.", "Four solid stars from me."),
    "45": ("Highly recommended.", "I cannot wait to return.", "We loved it.", "What a find.", "Would bring anyone here."),
    "5": ("Best {dish} of my life.", "I would give ten stars if I could.", "Absolutely perfect from start to finish.", "I dream of the {dish}.",
          "Nothing in town comes close.", "Do not change a thing.", "I have told everyone I know.", "We were blown away.", "A gem, truly.",
          "They went above and beyond for us.", "The {dish} made me close my eyes.", "Five stars, no hesitation.", "This is my favourite place on earth."),
}
ASPECT_TEMPLATES = ("The {aspect} was {adjective}.", "Honestly, the {aspect} was {adjective}.", "I found the {aspect} {adjective}.", "The {aspect}, how to say it, was {adjective}.",
                    "My {friend} called the {aspect} {adjective}, and I agree.", "To me the {aspect} was {adjective}.", "Overall the {aspect} was {adjective}.",
                    "This time the {aspect} was {adjective}.", "If you ask me the {aspect} was {adjective}.")
SHORT: dict[str, tuple[str, ...]] = {
    "1": ("Awful. Never again.", "Worst {dish} ever!"),
    "2": ("Disappointing {dish}.", "Expected more, sorry."),
    "3": ("It was okay.", "Average {dish}, fine."),
    "4": ("Good {dish}, will be back.", "Really nice place."),
    "5": ("Best {dish} in town!!", "Perfect. Love it."),
}
SHORT_NEUTRAL = ("Had the {dish}.", "Went with my {friend}.", "Came on a {day}.")

OPENERS = (
    "Came here with my {friend} on a {day}.", "My {friend} suggested this place.", "Visited on a {day} with my {friend}.", "I had walked past here for months.",
    "This was our third visit.", "First time here.", "We were in the neighbourhood.", "I had this place bookmarked for a while.", "Dropped by on a {day}.",
    "My {friend} and I tried it on a {day}.", "Wanted to write this down while I remember it.", "I come through Tiverbrook now and then.", "It was a {day} and we had no plan.",
    "Found it by accident.", "A {friend} of mine lives round the corner.", "There were four of us.", "We were a party of six.", "I came by myself.", "So, the {dish}.",
    "Update after a second visit.",
)
NEUTRAL = (
    "We ordered the {dish} and the {dish}.", "I went for the {dish}.", "My {friend} had the {dish}.", "The {dish} came with {dish} on the side.",
    "They were out of the {dish}, so I took the {dish}.", "I asked for the {dish} without onions.", "The {dish} arrived after {minutes} minutes.",
    "We waited {minutes} minutes for a table.", "It took {minutes} minutes to find parking.", "There is parking behind the building.", "Parking is on the street.",
    "The lot holds maybe {minutes} cars.", "The room has {colour} walls.", "The chairs are {colour} and the floor is concrete.", "They were playing {music}.",
    "In the background there was {music}.", "The menu is two pages.", "The menu hangs by the door.", "Our server introduced herself as Dana.", "Our waiter was called Luis.",
    "We sat near the back.", "We got the table by the door.", "I sat at the bar.", "There are about {minutes} tables.", "There was a dog under the next table.",
    "A couple next to us was playing cards.", "It rained the whole time.", "It was a {day}, so not too full.", "The place was half full.", "The restroom is down the hall.",
    "There is a step at the entrance.", "They have a small terrace with {colour} umbrellas.", "The wifi password is on the wall.", "My {friend} talked about a new job.",
    "We talked about the holidays.", "My {friend} was {minutes} minutes late.", "The {dish} comes in two sizes.", "You can choose between {dish} and {dish}.",
    "I took a photo of the {dish}.", "We shared the {dish}.", "The bus stops right outside.", "It is a short walk from the river.", "The building used to be a school.",
    "The owner's cat sat on the radiator.", "The door sticks a little.", "A fan was turning slowly.", "They had a television on without sound.", "The napkins were {colour}.",
    "There was a plant on our table.", "The plates are {colour}.", "I had a glass of water.", "We had water and a juice.", "There was a birthday at the long table.",
    "You order and sit down anywhere.", "They bring the bill when you ask.", "We paid separately.", "They take cards.", "My {friend} read the menu aloud.",
    "The {dish} is listed under house dishes.", "There is a choice of {minutes} sauces.", "We left after about an hour.", "We stayed for a while and chatted.",
    "The cook waved from the pass.", "The window seats were taken.", "Two people were working that day.", "Somebody had left a newspaper.", "The ceiling is high.",
    "It is on the corner by the bridge.", "The sign outside is {colour}.", "My {relative} used to live upstairs.", "I wore my {colour} sweater.", "They asked about allergies.",
    "The portion was about what you see in the pictures.", "The {dish} is a little spicy.", "I added some pepper to the {dish}.", "My {friend} finished my {dish}.",
    "The table next to us had the {dish}.", "They switched to {music} at some point.", "I noticed {colour} tiles behind the counter.", "Our coats hung by the door.",
)
CLOSERS = ("That is all.", "Hope this helps.", "Just my two cents.", "Thanks for reading.", "See you around.", "We walked back along the river.", "That was our visit.",
           "Then we went on our way.", "More next time.", "Your mileage may vary.")
EMOJI = ("😀", "🍜", "👍", "🤷", "🙂", "🍽️", "😋", "🌧️")
