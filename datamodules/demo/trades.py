"""What a review says when it gives a business's trade away: each trade's doings, things, people and remarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trade:
    """`doing` follows "after" or "while"; `thing` and `staff` are noun phrases; `lines` are whole sentences."""

    doing: tuple[str, ...]
    thing: tuple[str, ...]
    staff: tuple[str, ...]
    lines: tuple[str, ...]


# Sentences into which any trade's words fit.
TRADE_TEMPLATES = (
    "Stopped at the counter after {doing}.",
    "Had the {dish} while {doing}.",
    "I was here for {doing} and stayed for the {dish}.",
    "It passes the time nicely when you are {doing}.",
    "You eat right next to {thing}, which is part of the charm.",
    "From my stool I could see {thing}.",
    "Between bites my {friend} kept looking at {thing}.",
    "Turns out {staff} can cook as well.",
    "Even {staff} eats here, and I can see why.",
    "We got talking to {staff} over the {dish}.",
    "Our table stood between the door and {thing}.",
    "My {friend} was {doing} while I ordered the {dish}.",
    "After {doing} there was still time for the {dish}.",
    "The idea came from {staff}, who wanted more than a waiting room.",
    "Where else can you combine {doing} with the {dish}?",
    "They moved {thing} to make room for four more tables.",
    "I had a question and {staff} explained it over the counter.",
    "The {dish} came just as I was done {doing}.",
)
# The same words, about somewhere or somebody else: what keyword matching falls for.
TRADE_DISTRACTORS = (
    "My {relative} could not come, still {doing}.",
    "We had been {doing} across town earlier.",
    "My {relative} would not stop talking about {doing} last week.",
    "I nearly forgot I should have been {doing} that day.",
)

TRADES: dict[str, Trade] = {
    "Automotive": Trade(
        ("getting my brakes checked", "having the tyres rotated", "waiting for an oil change", "replacing a dead battery",
         "getting a dent taken out", "having the car inspected", "fixing a flat", "swapping the wiper blades"),
        ("the lift with a sedan on it", "the stack of winter tyres", "an old engine block", "the open garage bay",
         "a row of hub caps", "the tow truck"),
        ("the mechanic", "the man from the tow truck", "the lady who aligns the wheels", "the garage owner"),
        ("They changed my tyres before the bill was on the table.", "A faint smell of motor oil comes with the napkins.",
         "My transmission has stopped grinding, by the way.", "The waiter wears overalls and has a spanner in his pocket.",
         "You drive in with a rattle and drive out fed.", "My old pickup got a new muffler in the same visit.",
         "The car wash next to the terrace hums along."),
    ),
    "Shopping": Trade(
        ("trying on boots", "looking for a birthday present", "hunting for a winter coat", "browsing the sale rack",
         "picking out a lamp", "returning a sweater", "buying new jeans", "choosing a picture frame"),
        ("a rack of summer dresses", "the fitting rooms", "the shoe display", "a shelf of candles and vases",
         "the mannequins in the window", "the gift wrapping desk"),
        ("the shop assistant", "the cashier from the clothes floor", "the window dresser", "the boutique owner"),
        ("I left with two full bags and an empty wallet.", "The jacket I bought fits, even after the meal.",
         "They let you leave your parcels behind the till.", "My receipt lists a scarf, a mug and my food.",
         "You can try on hats until your order comes.", "Half the store seems to be on sale every time.",
         "Found the exact handbag I wanted between courses."),
    ),
    "Event Planning & Services": Trade(
        ("planning a wedding", "talking through a birthday party", "booking the hall for our anniversary",
         "choosing invitations", "tasting for the reception", "picking centrepieces", "settling the guest list",
         "renting chairs for a christening"),
        ("the balloon arch", "the stage for the band", "a half hung garland", "the stack of banquet chairs",
         "the dance floor", "sample place cards and ribbons"),
        ("the wedding planner", "the florist who does the weddings", "the party organiser", "the DJ setting up"),
        ("They are putting together my sister's wedding.", "There was bunting up for somebody's retirement party.",
         "We signed for the ballroom before we left.", "The venue upstairs seats two hundred guests.",
         "A bride walked past in full dress and nobody blinked.", "They also arrange the band, the tent and the flowers.",
         "Our baby shower will be here in the spring."),
    ),
    "Pizza": Trade(
        ("grabbing a slice", "sharing a margherita", "splitting a large pepperoni", "folding a New York style slice",
         "building my own pie", "watching them stretch the dough", "finishing the last crust", "arguing about pineapple"),
        ("the wood fired oven", "the man tossing dough", "a wall of pizza peels", "the slice counter",
         "a mountain of grated mozzarella", "the deep dish pans"),
        ("the pizzaiolo", "the dough guy", "the woman at the brick oven", "the slice boy"),
        ("The crust had proper blisters from the oven.", "We ordered half mushroom, half sausage on a thin crust.",
         "There was mozzarella in long strings everywhere.", "You get two kinds of crust and a dozen toppings.",
         "Grabbed a slice to begin with.", "The pepperoni curls up into little cups.",
         "A calzone the size of a shoe went past."),
    ),
    "Coffee & Tea": Trade(
        ("waiting for my flat white", "sipping a cortado", "steeping a pot of oolong", "nursing a cappuccino",
         "smelling all the tea tins", "picking beans to take along", "finishing my latte", "having an espresso"),
        ("the big brass espresso machine", "jars of loose leaf tea", "the roaster", "burlap sacks of beans",
         "the pour over stand", "a shelf of tea pots"),
        ("the barista", "the roaster", "the lady who blends the teas", "the latte artist"),
        ("The foam had a little fern drawn in it.", "They grind the beans for every cup.",
         "My chai came with real cardamom.", "The cold brew kept me awake until the next day.",
         "A matcha and a macchiato stood on our tab.", "Refills of drip are free if you keep the mug.",
         "You can smell the roast from the corner."),
    ),
    "Active Life": Trade(
        ("playing two sets of tennis", "an hour on the climbing wall", "renting bikes", "a yoga class",
         "swimming laps", "a long hike", "bowling with the team", "kicking a ball about"),
        ("the climbing wall", "the bike racks", "the tennis courts", "the bowling lanes", "the pool", "a heap of kayaks"),
        ("the yoga teacher", "the tennis coach", "the lifeguard", "the trail guide"),
        ("I came in sweaty with my gym bag and nobody minded.", "We had just cycled round the lake.",
         "My legs still shook from the workout.", "You can rent skates and helmets at the same till.",
         "The trail starts right behind the terrace.", "Our five a side team eats here after every match.",
         "My racket leaned against the chair next to me."),
    ),
    "Beauty & Spas": Trade(
        ("having my nails done", "getting a haircut", "a hot stone massage", "a facial", "letting the dye set",
         "having my beard trimmed", "a pedicure", "getting my eyebrows threaded"),
        ("the row of hair dryers", "the nail polish wall", "the sauna door", "the barber's chairs", "the big salon mirrors",
         "a tray of combs and scissors"),
        ("the stylist", "the barber", "the masseuse", "the nail technician"),
        ("I ate with foils in my hair.", "My hair has never sat better, and I was fed.",
         "They bring your plate to the salon chair.", "Everything smells faintly of shampoo and lavender.",
         "My manicure survived the finger food.", "I was so relaxed from the massage that I nearly fell asleep.",
         "They took two inches off my fringe."),
    ),
    "Local Services": Trade(
        ("dropping off dry cleaning", "having keys cut", "mailing a parcel", "picking up my mended shoes",
         "getting a watch repaired", "printing some forms", "collecting the laundry", "having a phone screen fixed"),
        ("the key cutting machine", "a wall of post boxes", "the rack of pressed shirts", "the cobbler's bench",
         "the washing machines", "the copy machine"),
        ("the locksmith", "the cobbler", "the seamstress", "the man at the parcel desk"),
        ("My spare keys were ready before the food.", "They hemmed my trousers while I ate.",
         "I sent three letters off from the same counter.", "My shirts were pressed and waiting on a hanger.",
         "The dryer buzzed just as my plate arrived.", "They got the phone working again in half an hour.",
         "You can pay the water bill here too."),
    ),
    "Health & Medical": Trade(
        ("seeing the dentist", "waiting for my prescription", "a flu shot", "having my eyes tested",
         "a session with the physio", "getting a blood test", "picking up my mother's pills", "having stitches taken out"),
        ("the pharmacy counter", "the eye chart", "a shelf of vitamins", "the blood pressure machine",
         "the dentist's fish tank", "a skeleton with a hat on"),
        ("the pharmacist", "the dental hygienist", "the chiropractor", "the optician"),
        ("My mouth was still numb from the filling.", "The receptionist called my name for the check-up mid bite.",
         "They filled my prescription before the plates were cleared.", "My back cracked in three places and then I ate.",
         "Somebody was being fitted for glasses at the next window.", "There is hand gel and a first aid poster at every table.",
         "The X-ray was clear, so we celebrated."),
    ),
    "Home Services": Trade(
        ("choosing tiles for the bathroom", "asking about a leaking tap", "getting a quote for the roof",
         "picking paint colours", "ordering new blinds", "comparing kitchen cabinets", "booking the plumber",
         "looking at carpet samples"),
        ("a wall of paint cards", "the sample doors", "a stack of floorboards", "the bath tubs on show",
         "a half built kitchen island", "the ladders"),
        ("the plumber", "the roofer", "the painter and decorator", "the woman who lays the floors"),
        ("They are coming to fix our gutters next week.", "The hammering from the workshop stops at meal times.",
         "We left with a quote for the new windows.", "Our boiler has worked ever since they came by.",
         "They can paint your hallway and fill your plate.", "My tape measure and I felt quite at home.",
         "They retiled our shower last year, so we know the team."),
    ),
}
