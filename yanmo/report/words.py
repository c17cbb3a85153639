"""Every word of the report, in both languages: key -> (English, Chinese). A test keeps them complete."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]

WORDS: dict[str, tuple[str, str]] = {
    # the page
    "title": ("{name} · Yanmo report", "{name} · 研墨报告"),
    "motto": ("your own text, your own language model", "自己的文字，自己的语言模型"),
    "written": ("written {when} by yanmo {version}", "{when} 由 yanmo {version} 生成"),
    "unreadable": (
        "Left out, because the file could not be read: {files}",
        "以下文件无法读取，相应部分已省略：{files}",
    ),
    "empty": ("Nothing has been measured in this run yet.", "这次运行还没有任何结果。"),
    "model.line": ("{layers} layers × {width}, {parameters} parameters", "{layers} 层 × {width} 维，{parameters} 参数"),
    "vocabulary.line": ("vocabulary {size}", "词表 {size}"),
    # headline figures
    "figure.loss": ("held-out loss", "验证损失"),
    "figure.loss.note": ("nats a target", "每个目标的奈特数"),
    "figure.perplexity.note": ("perplexity {value}", "困惑度 {value}"),
    "figure.bits_per_byte": ("bits per byte", "每字节比特数"),
    "figure.bits_per_byte.note": ("of held-out text", "验证文本"),
    "figure.bits_per_byte.pseudo-likelihood": ("by pseudo-likelihood of held-out text", "按验证文本的伪似然"),
    "figure.bits_per_byte.bound": ("of held-out text, at most", "验证文本，上界"),
    "figure.bits_per_byte.permutation": ("of held-out text, in random orders", "验证文本，按随机次序"),
    "figure.bits_per_byte.gap": ("of held-out text, written into a gap", "验证文本，填入一处空白"),
    "figure.accuracy": ("masked accuracy", "遮蔽预测准确率"),
    "figure.accuracy.note": ("always the most frequent token: {value}", "总猜最常见的词元：{value}"),
    "figure.speed": ("tokens a second", "词元/秒"),
    "figure.speed.note": ("{share} of the machine's matrix rate", "达到本机矩阵运算速率的 {share}"),
    "figure.minutes": ("from text to model", "从文本到模型"),
    "figure.documents": ("documents kept", "保留的文档"),
    "figure.documents.note": ("of {total} read", "共读入 {total} 篇"),
    "figure.bytes": ("of clean text", "干净文本"),
    # corpus
    "corpus": ("Corpus", "语料"),
    "corpus.lead": (
        "{read} documents were read; {kept} of them ({share}) remain, {size} of text.",
        "读入 {read} 篇文档，保留 {kept} 篇（{share}），共 {size} 文本。",
    ),
    "corpus.funnel": ("What each step left", "每一步之后剩下的"),
    "corpus.documents": ("documents", "文档"),
    "corpus.bytes": ("bytes", "字节"),
    "corpus.lost": ("dropped at this step", "这一步去掉的"),
    "corpus.value": ("{documents} · {size}", "{documents} 篇 · {size}"),
    "corpus.switches": ("What was repaired", "修复"),
    "corpus.switch": ("switch", "开关"),
    "corpus.changed": ("documents", "文档"),
    "corpus.lengths": ("Document lengths", "文档长度"),
    "corpus.lengths.x": ("characters", "字符"),
    "corpus.scripts": ("Scripts", "文字"),
    "corpus.encodings": ("Encodings", "编码"),
    "corpus.files": ("files", "文件"),
    "corpus.split": (
        " {train} are for training, {validation} are held out for validation.",
        "其中 {train} 篇用于训练，{validation} 篇留作验证。",
    ),
    "corpus.dropped": (
        "Every dropped document is listed with its reason in corpus/dropped.jsonl.",
        "每篇去掉的文档及原因见 corpus/dropped.jsonl。",
    ),
    "corpus.languages": ("Languages", "语言"),
    # tokenizer and shards
    "tokenizer": ("Tokenizer", "分词器"),
    "tokenizer.lead": ("{kind}, {size} tokens.", "{kind}，{size} 个词元。"),
    "tokenizer.sampled": (" Trained on {size} of text.", "训练用文本 {size}。"),
    "tokenizer.lost": ("What did not come back", "未能还原的例子"),
    "tokenizer.text": ("text", "原文"),
    "tokenizer.back": ("decoded", "解码后"),
    "tokenizer.script": ("script", "文字"),
    "tokenizer.all": ("all text", "全部文本"),
    "tokenizer.characters": ("characters", "字符"),
    "tokenizer.tokens": ("tokens", "词元"),
    "tokenizer.tokens_per_character": ("tokens a character", "词元/字符"),
    "tokenizer.tokens_per_byte": ("tokens a byte", "词元/字节"),
    "tokenizer.unknown_share": ("unknown", "未知词元"),
    "tokenizer.round_trip_failures": ("round-trip failures", "还原失败"),
    "tokenizer.split": ("split", "划分"),
    "split.train": ("training", "训练"),
    "split.validation": ("validation", "验证"),
    "tokenizer.documents": ("documents", "文档"),
    "tokenizer.sentences": ("sentences", "句子"),
    "tokenizer.words": ("words", "词"),
    "tokenizer.bytes": ("text", "文本"),
    # training
    "training": ("Training", "训练"),
    "training.lead": (
        "{steps} steps, {tokens} tokens, {time}.",
        "{steps} 步，{tokens} 词元，用时 {time}。",
    ),
    "training.loss.named": ("Loss: {name}", "损失：{name}"),
    "training.raw": ("training", "训练"),
    "training.smooth": ("training, smoothed", "训练（平滑）"),
    "training.validation": ("held-out text", "验证文本"),
    "training.step": ("step", "步"),
    "training.nats": ("nats a target", "奈特/目标"),
    "training.speed": ("Throughput", "吞吐量"),
    "training.speed.y": ("tokens a second", "词元/秒"),
    "training.rate": ("Learning rate", "学习率"),
    "training.rate.y": ("rate", "速率"),
    "training.norm": ("Gradient norm", "梯度范数"),
    "training.norm.y": ("before clipping", "裁剪前"),
    "training.accuracy.y": ("share right", "正确比例"),
    "training.skipped": (
        "Steps skipped because their loss or gradient was not finite or jumped: {count}.",
        "因损失或梯度不是有限数或突增而跳过的步数：{count}。",
    ),
    "loss.masked": ("masked tokens", "遮蔽词元"),
    "loss.causal": ("next token", "下一个词元"),
    "loss.next": ("next sentence", "下一句"),
    "loss.order": ("sentence order", "句子顺序"),
    "loss.sentences": ("sentence pairs", "句对"),
    "loss.loss": ("total", "合计"),
    "loss.reconstruction": ("reconstruction", "重构"),
    "loss.kl": ("KL of the latent", "隐变量的 KL"),
    "loss.kl_per_text": ("KL of a text's latent", "每篇文本隐变量的 KL"),
    "loss.penalty": ("KL above the free bits", "超出免费比特的 KL"),
    "loss.bound": ("importance-weighted bound", "重要性加权上界"),
    "loss.replaced": ("replaced tokens", "替换词元检测"),
    "loss.permuted": ("tokens in random order", "随机顺序的词元"),
    "loss.contrast": ("sentence vectors", "句向量"),
    "loss.teacher": ("the teacher's scores", "教师的打分"),
    "loss.hidden": ("the teacher's hidden states", "教师的隐状态"),
    "loss.span-corruption": ("spans taken out", "挖去的片段"),
    "loss.denoising": ("spoiled text restored", "还原损坏的文本"),
    "loss.denoisers": ("mixture of denoisers", "混合去噪"),
    "loss.prefix": ("what follows a prefix", "前缀之后的文本"),
    "loss.fill-in-the-middle": ("middles filled in", "中间填空"),
    "loss.hybrid": ("causal and masked", "因果与遮蔽混合"),
    "loss.discriminator": ("discriminator", "判别器"),
    "loss.adversarial": ("adversarial", "对抗"),
    "loss.balance": ("expert balance", "专家均衡"),
    "measure.expert_load": ("Load of the busiest expert", "最忙专家的负载"),
    "measure.expert_load.y": ("even shares", "平均份额的倍数"),
    "measure.dropped_tokens": ("Tokens that no expert takes", "没有专家处理的词元"),
    "measure.dropped_tokens.y": ("share", "比例"),
    "measure.assignment_optimum": ("Assignment, against the best", "分配相对最优"),
    "measure.assignment_optimum.y": ("share", "比例"),
    "measure.active_units": ("Active latent units", "活跃的隐变量单元"),
    "measure.active_units.y": ("units", "个"),
    "measure.mutual_information": ("Mutual information of text and latent", "文本与隐变量的互信息"),
    "measure.mutual_information.y": ("nats", "奈特"),
    "measure.kl_per_text": ("KL of a text's latent", "每篇文本隐变量的 KL"),
    "measure.kl_per_text.y": ("nats a text", "奈特/篇"),
    "measure.perplexity": ("Perplexity, by the bound", "困惑度（按上界）"),
    "measure.perplexity.y": ("perplexity", "困惑度"),
    "measure.alignment": ("Alignment of a text's two vectors", "同一文本两个向量的对齐度"),
    "measure.alignment.y": ("squared distance", "距离平方"),
    "measure.uniformity": ("Uniformity of all vectors", "全部向量的均匀度"),
    "measure.uniformity.y": ("log mean of exp(−2 d²)", "exp(−2 d²) 均值的对数"),
    "accuracy.accuracy": ("Token accuracy", "词元准确率"),
    "accuracy.of": ("Accuracy: {name}", "准确率：{name}"),
    "accuracy.masked_accuracy": ("Accuracy of the generator", "生成器的准确率"),
    "accuracy.replaced_accuracy": ("Replaced tokens that were found", "被替换的词元：认出的比例"),
    "accuracy.original_accuracy": ("Original tokens that were left alone", "原有的词元：认对的比例"),
    "accuracy.discriminator_accuracy": ("Accuracy of the discriminator", "判别器的准确率"),
    "accuracy.next_accuracy": ("Next-sentence accuracy", "下一句准确率"),
    "accuracy.order_accuracy": ("Sentence-order accuracy", "句子顺序准确率"),
    # evaluation
    "evaluation": ("What it has learned", "学到了什么"),
    "evaluation.lead": ("Measured on held-out text, none of which was trained on.", "在留出的文本上测得，训练时从未见过。"),
    "evaluation.lead.counts": (
        "Measured on {documents} held-out documents ({tokens} tokens), none of which was trained on.",
        "在留出的 {documents} 篇文档（{tokens} 词元）上测得，训练时从未见过。",
    ),
    "evaluation.measure": ("measure", "指标"),
    "evaluation.value": ("value", "数值"),
    "evaluation.loss": ("loss, {name}", "损失：{name}"),
    "evaluation.perplexity": ("perplexity", "困惑度"),
    "evaluation.bits_per_byte": ("bits per byte", "每字节比特数"),
    "evaluation.masked_accuracy": ("masked accuracy", "遮蔽预测准确率"),
    "evaluation.baseline_accuracy": ("accuracy of always guessing the most frequent token", "总猜最常见词元的准确率"),
    "evaluation.pseudo_perplexity": ("pseudo-perplexity", "伪困惑度"),
    "evaluation.sentence_accuracy": ("sentence-pair accuracy", "句对准确率"),
    "evaluation.parameters": ("parameters", "参数量"),
    "evaluation.sentence_bits_per_byte": ("bits per byte of sentences", "句子的每字节比特数"),
    "evaluation.active_units": ("active latent units", "活跃的隐变量单元"),
    "evaluation.mutual_information": ("mutual information of text and latent (nats)", "文本与隐变量的互信息（奈特）"),
    "evaluation.alignment": ("alignment of a text's two vectors (0 at best)", "同一文本两个向量的对齐度（最好为 0）"),
    "evaluation.uniformity": ("uniformity of all vectors (lower is better)", "全部向量的均匀度（越低越好）"),
    "evaluation.samples": ("Written from latents that were drawn", "由随机抽取的隐变量写成"),
    "evaluation.fills": ("Gaps filled in", "填空"),
    "evaluation.generations": ("Beginnings continued", "续写"),
    "frontier": ("The game against maximum likelihood", "对抗训练与最大似然"),
    "frontier.title": (
        "Quality and diversity over temperatures ({count} texts a point)",
        "各温度下的质量与多样性（每点 {count} 篇）",
    ),
    "frontier.x": ("Self-BLEU-{order}: how alike its texts are", "Self-BLEU-{order}：文本之间的相似程度"),
    "frontier.y": ("BLEU-{order}", "BLEU-{order}"),
    "frontier.likelihood": ("maximum likelihood", "最大似然"),
    "frontier.adversarial": ("adversarial", "对抗"),
    "frontier.generator": ("{generator}, at {temperature}", "{generator}，温度 {temperature}"),
    "frontier.words": ("words a text", "词/篇"),
    "frontier.better": (
        "The adversarial generator is better than maximum likelihood at another temperature. Its BLEU at equal Self-BLEU, less "
        "the other's, with one standard error: {gains}.",
        "对抗生成器优于换一个温度的最大似然。在 Self-BLEU 相同时，BLEU 之差（± 标准误差）：{gains}。",
    ),
    "frontier.not better": (
        "The adversarial generator is not better than maximum likelihood at another temperature: the generator in likelihood/ is "
        "the one to use. Its BLEU at equal Self-BLEU, less the other's, with one standard error: {gains}.",
        "对抗生成器并不优于换一个温度的最大似然，建议使用 likelihood/ 中的生成器。"
        "在 Self-BLEU 相同时，BLEU 之差（± 标准误差）：{gains}。",
    ),
    "frontier.not comparable": (
        "The two generators cannot be compared: at no temperature are their texts equally alike, so that nothing says that the "
        "adversarial one is better. Its BLEU at equal Self-BLEU, less the other's: {gains}.",
        "两个生成器无法比较：在任何温度下，两者文本的相似程度都不相同，没有依据说对抗生成器更好。"
        "在 Self-BLEU 相同时，BLEU 之差：{gains}。",
    ),
    # time
    "time": ("Time", "用时"),
    "time.lead": ("{time} in all.", "共 {time}。"),
    "time.stages": ("By stage", "各阶段"),
    "stage.corpus": ("corpus", "语料"),
    "stage.tokenizer": ("tokenizer", "分词器"),
    "stage.shards": ("token shards", "词元分片"),
    "stage.pretrain": ("pretraining", "预训练"),
    "stage.evaluation": ("evaluation", "评测"),
    "stage.evaluate": ("evaluation", "评测"),
    "seconds": ("{s} s", "{s} 秒"),
    "minutes": ("{m} min {s} s", "{m} 分 {s} 秒"),
    "hours": ("{h} h {m} min", "{h} 小时 {m} 分"),
    # how to go on
    "next": ("How to go on", "接下来"),
    "next.gap": ("The weather is [MASK] today.", "今天天气很[MASK]。"),
    "next.prompt": ("Once upon a time", "今天"),
    "next.fill": ("Fill gaps of your own", "填自己的空"),
    "next.generate": ("Let it write", "让它续写"),
    "next.sample": ("Let it write freely", "让它自由写作"),
    "next.score": ("Score sentences", "给句子打分"),
    "next.own": ("Load it from Python", "在 Python 中加载"),
    "next.load": ("Load it with transformers, without any code of Yanmo", "用 transformers 加载，不需要研墨的代码"),
    "next.longer": ("Train longer, as a run of its own", "训练更久（另起一次运行）"),
    "next.text": ("The same with your own text", "换成自己的文本"),
    "next.train": ("Train the tokenizer and the model", "训练分词器和模型"),
    "next.verify": ("Check that every file is whole", "检查每个文件是否完好"),
    # appendix
    "recipe": ("Recipe", "配方"),
    "recipe.note": ("every setting, defaults written out", "全部设置，默认值也写出"),
    "environment": ("Environment", "环境"),
    "environment.note": ("versions and machine, for bug reports", "版本与机器，供报告问题时使用"),
    "environment.system": ("system", "操作系统"),
    "environment.processor": ("processor", "处理器"),
    "environment.cores": ("cores", "核心数"),
    "environment.memory": ("memory", "内存"),
    "environment.instructions": ("instructions", "指令集"),
    "environment.accelerator": ("accelerator", "加速器"),
    "environment.c++ compiler": ("C++ compiler", "C++ 编译器"),
}

NAMES: dict[str, tuple[str, str]] = {
    # corpus steps and counters: what the corpus stage writes; a name that is not here is shown as it is
    "clean": ("clean", "清洗"),
    "mojibake": ("mojibake", "乱码修复"),
    "unicode": ("unicode", "Unicode 规范化"),
    "control": ("control characters", "控制字符"),
    "whitespace": ("white space", "空白"),
    "width": ("full and half width", "全角与半角"),
    "simplify": ("traditional to simplified", "繁体转简体"),
    "boilerplate": ("boilerplate lines", "套话行"),
    "read": ("read", "读入"),
    "length": ("length", "长度"),
    "repetition": ("repetition", "重复内容"),
    "symbols": ("symbols", "符号比例"),
    "language": ("language", "语言"),
    "on_error": ("unreadable records", "无法读取的记录"),
    "unreadable": ("unreadable", "无法读取"),
    "scrub": ("personal data", "个人信息"),
    "runs": ("runs", "处"),
    "lines": ("lines", "行"),
    "characters": ("characters", "字符"),
    "email": ("e-mail addresses", "电子邮箱"),
    "phone": ("phone numbers", "电话号码"),
    "identity": ("identity numbers", "身份证号"),
    "card": ("card numbers", "银行卡号"),
    "exact": ("exact duplicates", "完全重复"),
    "near": ("near-duplicates", "近似重复"),
    "decontaminate": ("decontamination", "去除测试集重合"),
    # tokenizers
    "wordpiece": ("WordPiece", "WordPiece"),
    "bpe": ("BPE", "BPE"),
    "byte-bpe": ("byte-level BPE", "字节级 BPE"),
    "unigram": ("Unigram", "Unigram"),
    "character": ("character level", "字符级"),
    # scripts
    "han": ("Han", "汉字"),
    "latin": ("Latin", "拉丁字母"),
    "kana": ("kana", "假名"),
    "hangul": ("Hangul", "谚文"),
    "cyrillic": ("Cyrillic", "西里尔字母"),
    "greek": ("Greek", "希腊字母"),
    "arabic": ("Arabic", "阿拉伯字母"),
    "devanagari": ("Devanagari", "天城文"),
    "thai": ("Thai", "泰文"),
    "digits": ("digits", "数字"),
    "punctuation": ("punctuation", "标点"),
    "space": ("space", "空格"),
    "other": ("other", "其他"),
}


class Words:
    """The words of one language: words("corpus.lead", read="1,234")."""

    def __init__(self, language: Language):
        self.language: Language = language
        self.column = 0 if language == "en" else 1

    def __call__(self, key: str, **values: str) -> str:
        text = WORDS[key][self.column]
        return text.format(**values) if values else text

    def known(self, key: str) -> str | None:
        """The word for a key that may not be there."""
        return WORDS[key][self.column] if key in WORDS else None

    def name(self, raw: str) -> str:
        """The name of a step, switch, script or counter; the raw name, readable, where the table has none."""
        return NAMES[raw.lower()][self.column] if raw.lower() in NAMES else raw.replace("_", " ")

    def duration(self, seconds: float) -> str:
        """4 min 12 s"""
        if seconds < 60:
            return self("seconds", s=f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}")
        minutes, rest = divmod(round(seconds), 60)
        if minutes < 60:
            return self("minutes", m=str(minutes), s=str(rest))
        return self("hours", h=f"{minutes // 60:,}", m=str(minutes % 60))
