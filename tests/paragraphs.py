"""A few paragraphs in each of many languages, written for these tests, and the older charsets of each."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """A text, and the charsets (as Python names them) that such text is found in."""

    text: str
    charsets: tuple[str, ...]


LANGUAGES = {
    "French": Language(
        "Le boulanger ouvre sa boutique à six heures, bien avant que le village ne s'éveille. Il a pétri la "
        "pâte la veille, et l'odeur du pain chaud se répand déjà dans la rue. Les premières clientes "
        "arrivent, frileuses, un fichu noué sous le menton.\n\n"
        "«Vous êtes en avance, dit-il, la fournée n'est pas prête.» Elles rient, parlent de la récolte, du "
        "gel qui a brûlé les pêchers, de l'école où l'on cherche un maître. Ça ne presse pas: le café est "
        "tiède, et l'hiver, où qu'on aille, dure toujours trop longtemps.\n",
        ("cp1252", "latin-1"),
    ),
    "Spanish": Language(
        "El panadero abre la tienda a las seis, mucho antes de que despierte el pueblo. Amasó ayer por la "
        "noche, y el olor del pan recién hecho llega hasta la plaza. Las primeras señoras entran tiritando, "
        "con un pañuelo atado bajo la barbilla.\n\n"
        "¿Ya está listo? —pregunta una—. ¡Qué frío hace esta mañana! Hablan de la cosecha, de la helada que "
        "quemó los melocotoneros, del niño que nació el miércoles. Nadie tiene prisa: el café está tibio y "
        "el invierno, año tras año, dura más de lo que debería.\n",
        ("cp1252",),
    ),
    "German": Language(
        "Der Bäcker öffnet seinen Laden um sechs, lange bevor das Dorf erwacht. Den Teig hat er am Abend "
        "geknetet, und der Geruch von frischem Brot zieht schon über die Straße. Die ersten Kundinnen "
        "kommen, fröstelnd, ein Tuch unter dem Kinn geknotet.\n\n"
        "Sie seien zu früh, sagt er, das Blech müsse noch in den Ofen. Sie lachen und erzählen von der "
        "Ernte, vom Frost, der die Pfirsichbäume verbrannt hat, und von der Schule, für die man größere "
        "Räume sucht. Es eilt nicht: Der Kaffee ist lauwarm, und der Winter währt überall zu lange.\n",
        ("cp1252", "latin-1"),
    ),
    "Portuguese": Language(
        "O padeiro abre a loja às seis, muito antes de a aldeia acordar. Amassou ontem à noite, e o cheiro "
        "do pão quente já chega ao largo. As primeiras senhoras entram a tremer de frio, com um lenço "
        "atado debaixo do queixo.\n\n"
        "Não está pronto, diz ele, falta um bocadinho. Elas riem, falam da colheita, da geada que queimou "
        "os pessegueiros, da professora que há de chegar à escola na próxima estação. Ninguém tem pressa: "
        "o café está morno, e o inverno, em qualquer região, dura sempre demais.\n",
        ("cp1252",),
    ),
    "Italian": Language(
        "Il fornaio apre la bottega alle sei, molto prima che il paese si svegli. Ha impastato ieri sera, e "
        "l'odore del pane caldo arriva già fino alla piazza. Le prime clienti entrano infreddolite, con un "
        "fazzoletto annodato sotto il mento.\n\n"
        "Non è pronto, dice, ci vorrà più di mezz'ora. Ridono, parlano del raccolto, del gelo che ha "
        "bruciato i peschi, della città dove c'è più lavoro e meno libertà. Nessuno ha fretta: il caffè è "
        "tiepido, e l'inverno, chissà perché, dura sempre troppo.\n",
        ("cp1252",),
    ),
    "Dutch": Language(
        "De bakker opent zijn winkel om zes uur, lang voordat het dorp wakker wordt. Hij heeft gisteravond "
        "gekneed, en de geur van vers brood trekt al door de straat. De eerste klanten komen binnen, "
        "rillend, met een sjaal onder de kin geknoopt: één voor één, want de deur is smal.\n\n"
        "U bent te vroeg, zegt hij, de oven moet nog aan. Ze lachen en praten over de oogst, over het ijs "
        "dat de perzikbomen heeft geveld, over het café dat ze in België hebben geopend. Niemand heeft "
        "haast: de koffie is lauw, en de winter duurt, à propos, overal te lang. Zoë knikt en zwijgt.\n",
        ("cp1252",),
    ),
    "Swedish": Language(
        "Bagaren öppnar sin butik klockan sex, långt innan byn vaknar. Degen knådade han i går kväll, och "
        "doften av nybakat bröd sprider sig redan över gatan. De första kunderna kommer, frusna, med en "
        "sjal knuten under hakan.\n\n"
        "Ni är för tidiga, säger han, plåten måste in i ugnen först. De skrattar och talar om skörden, om "
        "frosten som tog persikoträden, om skolan där man söker en lärare. Ingen har bråttom: kaffet är "
        "ljummet, och vintern är överallt för lång.\n",
        ("cp1252",),
    ),
    "Polish": Language(
        "Piekarz otwiera sklep o szóstej, na długo zanim wieś się obudzi. Ciasto zagniótł wczoraj wieczorem "
        "i zapach świeżego chleba rozchodzi się już po ulicy. Pierwsze klientki wchodzą zziębnięte, z "
        "chustką zawiązaną pod brodą.\n\n"
        "Jeszcze nie gotowe, mówi, trzeba poczekać pół godziny. Śmieją się, rozmawiają o żniwach, o mrozie, "
        "który spalił brzoskwinie, o szkole, do której szuka się nauczyciela. Nikomu się nie śpieszy: kawa "
        "jest letnia, a zima, gdziekolwiek się pójdzie, trwa zawsze zbyt długo.\n",
        ("cp1250", "iso8859-2"),
    ),
    "Czech": Language(
        "Pekař otevírá krámek v šest hodin, dávno předtím, než se vesnice probudí. Těsto zadělal včera "
        "večer a vůně čerstvého chleba se už šíří po ulici. První zákaznice přicházejí prokřehlé, s šátkem "
        "uvázaným pod bradou.\n\n"
        "Ještě není hotovo, říká, musíte chvíli počkat. Smějí se a mluví o žních, o mrazu, který spálil "
        "broskvoně, o škole, kde hledají učitele. Nikdo nespěchá: káva je vlažná a zima trvá všude, kam "
        "člověk přijde, příliš dlouho.\n",
        ("cp1250", "iso8859-2"),
    ),
    "Hungarian": Language(
        "A pék hatkor nyitja a boltot, jóval azelőtt, hogy a falu felébredne. A tésztát tegnap este "
        "dagasztotta, és a friss kenyér illata már az utcán száll. Az első vevők dideregve érkeznek, az "
        "álluk alatt megkötött kendővel.\n\n"
        "Még nincs kész, mondja, várni kell egy kicsit. Nevetnek, a termésről beszélnek, a fagyról, amely "
        "elvitte az őszibarackot, az iskoláról, ahová tanítót keresnek. Senki sem siet: a kávé langyos, és "
        "a tél mindenütt túl hosszú, bárhová megy is az ember. Csak a tűz zúg, s a győri vonat füttye "
        "szól.\n",
        ("cp1250", "iso8859-2"),
    ),
    "Romanian": Language(
        "Brutarul deschide prăvălia la şase, cu mult înainte să se trezească satul. A frământat aseară, "
        "iar mirosul de pâine caldă se răspândeşte deja pe uliţă. Primele cliente intră zgribulite, cu "
        "basmaua legată sub bărbie.\n\n"
        "Nu este gata, spune el, mai aşteptaţi puţin. Ele râd, vorbesc despre recoltă, despre gerul care a "
        "ars piersicii, despre şcoala unde se caută un învăţător. Nimeni nu se grăbeşte: cafeaua e călduţă, "
        "iar iarna, oriunde te-ai duce, ţine întotdeauna prea mult.\n",
        ("cp1250", "iso8859-2"),
    ),
    "Russian": Language(
        "Пекарь открывает лавку в шесть часов, задолго до того, как проснётся деревня. Тесто он замесил "
        "ещё вечером, и запах свежего хлеба уже разносится по улице. Первые покупательницы входят, "
        "продрогшие, с платком, завязанным под подбородком.\n\n"
        "Ещё не готово, говорит он, придётся подождать. Они смеются, говорят об урожае, о морозе, который "
        "погубил персики, о школе, где ищут учителя. Никто не спешит: кофе тёплый, а зима, куда ни "
        "поезжай, всегда длится слишком долго.\n",
        ("cp1251", "koi8-r", "cp866", "iso8859-5"),
    ),
    "Ukrainian": Language(
        "Пекар відчиняє крамницю о шостій, задовго до того, як прокинеться село. Тісто він замісив ще "
        "ввечері, і запах свіжого хліба вже розходиться вулицею. Перші покупниці заходять змерзлі, з "
        "хусткою, зав'язаною під підборіддям.\n\n"
        "Ще не готово, каже він, доведеться зачекати. Вони сміються, говорять про врожай, про мороз, який "
        "знищив персики, про школу, до якої шукають учителя. Ніхто не поспішає: кава ледь тепла, а зима, "
        "куди не поїдеш, завжди триває надто довго. Її не спинить ґанок.\n",
        ("cp1251", "koi8-u"),
    ),
    "Bulgarian": Language(
        "Хлебарят отваря магазина в шест часа, много преди селото да се събуди. Замесил е тестото още "
        "снощи и мирисът на топъл хляб вече се носи по улицата. Първите жени влизат измръзнали, с кърпа, "
        "вързана под брадата.\n\n"
        "Още не е готово, казва той, ще трябва да почакате. Те се смеят, говорят за реколтата, за студа, "
        "който попари прасковите, за училището, където търсят учител. Никой не бърза: кафето е хладко, а "
        "зимата, където и да отидеш, винаги трае твърде дълго.\n",
        ("cp1251",),
    ),
    "Greek": Language(
        "Ο φούρναρης ανοίγει το μαγαζί στις έξι, πολύ πριν ξυπνήσει το χωριό. Ζύμωσε από το βράδυ και η "
        "μυρωδιά του ζεστού ψωμιού απλώνεται κιόλας στον δρόμο. Οι πρώτες πελάτισσες μπαίνουν παγωμένες, "
        "με το μαντίλι δεμένο κάτω από το πιγούνι.\n\n"
        "Δεν είναι έτοιμο, λέει, θα περιμένετε λίγο. Γελούν, μιλούν για τη σοδειά, για τον παγετό που "
        "έκαψε τις ροδακινιές, για το σχολείο όπου ψάχνουν δάσκαλο. Κανείς δεν βιάζεται: ο καφές είναι "
        "χλιαρός και ο χειμώνας, όπου κι αν πας, κρατάει πάντα πολύ.\n",
        ("cp1253", "iso8859-7"),
    ),
    "Turkish": Language(
        "Fırıncı dükkânı saat altıda, köy uyanmadan çok önce açar. Hamuru dün akşam yoğurmuştur ve taze "
        "ekmeğin kokusu şimdiden sokağa yayılır. İlk müşteriler üşümüş, çenelerinin altına bağladıkları "
        "yazmalarıyla içeri girerler.\n\n"
        "Daha hazır değil, der, biraz bekleyeceksiniz. Gülerler, hasattan, şeftali ağaçlarını yakan dondan, "
        "öğretmen aranan okuldan konuşurlar. Kimsenin acelesi yoktur: kahve ılıktır ve kış, nereye gidersen "
        "git, her zaman gereğinden uzun sürer.\n",
        ("cp1254", "iso8859-9"),
    ),
    "Hebrew": Language(
        "האופה פותח את החנות בשש, הרבה לפני שהכפר מתעורר. את הבצק לש אמש, וריח הלחם החם כבר מתפשט ברחוב. "
        "הקונות הראשונות נכנסות קפואות, עם מטפחת קשורה מתחת לסנטר.\n\n"
        "עוד לא מוכן, הוא אומר, צריך לחכות קצת. הן צוחקות, מדברות על היבול, על הכפור ששרף את עצי האפרסק, "
        "על בית הספר שמחפשים לו מורה. איש אינו ממהר: הקפה פושר, והחורף, לאן שלא תלך, נמשך תמיד יותר מדי "
        "זמן.\n",
        ("cp1255", "iso8859-8"),
    ),
    "Arabic": Language(
        "يفتح الخباز دكانه في السادسة، قبل أن تستيقظ القرية بوقت طويل. لقد عجن العجين مساء أمس، ورائحة "
        "الخبز الساخن تنتشر الآن في الشارع. تدخل الزبونات الأوائل وهن يرتجفن من البرد، وقد ربطن المناديل "
        "تحت الذقن.\n\n"
        "يقول إنه لم يجهز بعد، وعليكن أن تنتظرن قليلا. يضحكن ويتحدثن عن الحصاد، وعن الصقيع الذي أحرق أشجار "
        "الخوخ، وعن المدرسة التي تبحث عن معلم. لا أحد في عجلة من أمره: القهوة فاترة، والشتاء أينما ذهبت "
        "يطول دائما أكثر مما ينبغي.\n",
        ("cp1256", "iso8859-6"),
    ),
    "Japanese": Language(
        "パン屋は朝の六時に店を開ける。村が目を覚ますよりずっと前のことだ。生地は昨日の晩にこねてあり、"
        "焼きたてのパンの匂いがもう通りに広がっている。最初の客たちは寒さに震えながら、"
        "あごの下でスカーフを結んで入ってくる。\n\n"
        "まだできていません、少し待ってください、と彼は言う。客たちは笑い、収穫のこと、桃の木を枯らした霜のこと、"
        "先生を探している学校のことを話す。誰も急いではいない。コーヒーはぬるく、"
        "冬はどこへ行ってもいつも長すぎるのだ。\n",
        ("shift_jis", "euc_jp"),
    ),
    "Chinese (simplified)": Language(
        "面包师六点钟就开店，那时村子还远没有醒来。面团是昨天晚上揉好的，热面包的香味已经飘到了街上。"
        "第一批顾客冻得发抖，走了进来，下巴底下系着头巾。\n\n"
        "还没有好，他说，请再等一会儿。她们笑着，谈起收成，谈起冻坏桃树的霜，谈起正在找老师的学校。"
        "谁也不着急：咖啡是温的，而冬天，无论走到哪里，总是太长。窗外的雪慢慢地落在屋顶和田野上。\n",
        ("gb18030", "gbk"),
    ),
    "Chinese (traditional)": Language(
        "麵包師六點鐘就開店，那時村子還遠沒有醒來。麵團是昨天晚上揉好的，熱麵包的香味已經飄到了街上。"
        "第一批顧客凍得發抖，走了進來，下巴底下繫著頭巾。\n\n"
        "還沒有好，他說，請再等一會兒。她們笑著，談起收成，談起凍壞桃樹的霜，談起正在找老師的學校。"
        "誰也不著急：咖啡是溫的，而冬天，無論走到哪裡，總是太長。窗外的雪慢慢地落在屋頂和田野上。\n",
        ("big5",),
    ),
    "Korean": Language(
        "빵집 주인은 마을이 깨어나기 훨씬 전인 여섯 시에 가게를 연다. 반죽은 어제저녁에 해 두었고, 따뜻한 "
        "빵 냄새가 벌써 거리에 퍼지고 있다. 첫 손님들은 턱 밑에 수건을 묶고 추위에 떨며 들어온다.\n\n"
        "아직 안 되었으니 조금만 기다리세요, 하고 그가 말한다. 손님들은 웃으며 수확과 복숭아나무를 얼려 버린 "
        "서리와 선생님을 찾는 학교 이야기를 한다. 아무도 서두르지 않는다. 커피는 미지근하고, 겨울은 어디를 "
        "가나 언제나 너무 길다.\n",
        ("cp949", "euc_kr"),
    ),
    "Thai": Language(
        "คนทำขนมปังเปิดร้านตอนหกโมงเช้า นานก่อนที่หมู่บ้านจะตื่น เขานวดแป้งไว้ตั้งแต่เมื่อคืน "
        "และกลิ่นขนมปังร้อนก็ลอยไปตามถนนแล้ว ลูกค้ากลุ่มแรกเดินเข้ามาด้วยความหนาว มีผ้าผูกไว้ใต้คาง\n\n"
        "ยังไม่เสร็จ เขาบอก รออีกสักครู่ พวกเธอหัวเราะ คุยกันเรื่องการเก็บเกี่ยว เรื่องน้ำค้างแข็งที่ทำลายต้นท้อ "
        "เรื่องโรงเรียนที่กำลังหาครู ไม่มีใครรีบร้อน กาแฟก็อุ่น และฤดูหนาวไม่ว่าจะไปที่ไหนก็ยาวนานเกินไปเสมอ\n",
        ("cp874",),
    ),
}
